"""How a method meets a backbone: what it adds, what it trains."""

from .adapter import Adapter
from .adaptformer import AdaptFormer
from .base import CHILD, CannotMerge, Tuner, tuners_of
from .e3va import E3VA
from .fixed import Fixed
from .freezing import freeze_matching
from .full import Full
from .lora import LoRA
from .lorand import LoRand
from .named import BitFit, NormTuning, Partial

__all__ = [
    'CHILD',
    'E3VA',
    'AdaptFormer',
    'Adapter',
    'BitFit',
    'CannotMerge',
    'Fixed',
    'Full',
    'LoRA',
    'LoRand',
    'NormTuning',
    'Partial',
    'Tuner',
    'freeze_matching',
    'tuners_of',
]
