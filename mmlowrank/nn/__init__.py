"""The mathematics of the methods: plain torch modules, no OpenMMLab."""

from .adapter import HoulsbyAdapter
from .adaptformer import ParallelBottleneck
from .adaptive_mixing import AdaptiveMixing, build_mixing
from .e3va import LowRankAdapter, StandardAdapter
from .lora import LoRAUpdate
from .lorand import LoRandAdapter
from .lors import LORSAdaptive, LORSStatic
from .lors_linear import LORSLinear
from .rlrr import Rescaling
from .ssf import ScaleShift

__all__ = [
    'AdaptiveMixing',
    'HoulsbyAdapter',
    'LORSAdaptive',
    'LORSLinear',
    'LORSStatic',
    'LoRAUpdate',
    'LoRandAdapter',
    'LowRankAdapter',
    'ParallelBottleneck',
    'Rescaling',
    'ScaleShift',
    'StandardAdapter',
    'build_mixing',
]
