"""How a method meets a backbone: what it adds, what it trains."""

from .adapter import Adapter
from .adaptformer import AdaptFormer
from .arc import ARC
from .base import CHILD, CannotMerge, Tuner, checkpoint_parts, tuners_of
from .colin import CoLin
from .composition import Composition
from .e3va import E3VA
from .fact import FacT
from .fixed import Fixed
from .freezing import freeze_matching
from .full import Full
from .lora import LoRA
from .lorand import LoRand
from .losses import add_losses
from .mona import Mona
from .named import BitFit, NormTuning, Partial
from .rlrr import RLRR
from .roles import parameter_roles
from .ssf import SSF
from .vpt import VPT

__all__ = [
    'ARC',
    'CHILD',
    'E3VA',
    'RLRR',
    'SSF',
    'VPT',
    'AdaptFormer',
    'Adapter',
    'BitFit',
    'CannotMerge',
    'CoLin',
    'Composition',
    'FacT',
    'Fixed',
    'Full',
    'LoRA',
    'LoRand',
    'Mona',
    'NormTuning',
    'Partial',
    'Tuner',
    'add_losses',
    'checkpoint_parts',
    'freeze_matching',
    'parameter_roles',
    'tuners_of',
]
