"""The mathematics of the methods: plain torch modules, no OpenMMLab."""

from .adapter import HoulsbyAdapter
from .adaptformer import ParallelBottleneck
from .adaptive_mixing import AdaptiveMixing, build_mixing
from .coded import CodedAdapter
from .colin import CoLinAdapter
from .e3va import LowRankAdapter, StandardAdapter
from .lora import LoRAUpdate
from .lorand import LoRandAdapter
from .lors import LORSAdaptive, LORSStatic
from .lors_linear import LORSLinear
from .mona import MonaAdapter
from .rlrr import Rescaling
from .ssf import ScaleShift

__all__ = [
    'AdaptiveMixing',
    'CoLinAdapter',
    'CodedAdapter',
    'HoulsbyAdapter',
    'LORSAdaptive',
    'LORSLinear',
    'LORSStatic',
    'LoRAUpdate',
    'LoRandAdapter',
    'LowRankAdapter',
    'MonaAdapter',
    'ParallelBottleneck',
    'Rescaling',
    'ScaleShift',
    'StandardAdapter',
    'build_mixing',
]
