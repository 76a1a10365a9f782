"""The mathematics of the methods: plain torch modules, no OpenMMLab."""

from .adapter import Adapter
from .adaptformer import AdaptFormer
from .adaptive_mixing import AdaptiveMixing, build_mixing
from .e3va import LowRankAdapter, StandardAdapter
from .lora import LoRA
from .lorand import LoRand
from .lors import LORSAdaptive, LORSStatic
from .lors_linear import LORSLinear
from .rlrr import RLRRLinear
from .ssf import SSF

__all__ = [
    'SSF',
    'AdaptFormer',
    'Adapter',
    'AdaptiveMixing',
    'LORSAdaptive',
    'LORSLinear',
    'LORSStatic',
    'LoRA',
    'LoRand',
    'LowRankAdapter',
    'RLRRLinear',
    'StandardAdapter',
    'build_mixing',
]
