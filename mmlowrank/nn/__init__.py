"""The mathematics of the methods: plain torch modules, no OpenMMLab."""

from .adapter import Adapter
from .adaptformer import AdaptFormer
from .e3va import LowRankAdapter, StandardAdapter
from .lora import LoRA
from .lorand import LoRand
from .rlrr import RLRRLinear
from .ssf import SSF

__all__ = [
    'SSF',
    'AdaptFormer',
    'Adapter',
    'LoRA',
    'LoRand',
    'LowRankAdapter',
    'RLRRLinear',
    'StandardAdapter',
]
