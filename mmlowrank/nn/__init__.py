"""The mathematics of the methods: plain torch modules, no OpenMMLab."""

from .adapter import Adapter
from .adaptformer import AdaptFormer
from .e3va import LowRankAdapter, StandardAdapter
from .lora import LoRA
from .lorand import LoRand

__all__ = [
    'AdaptFormer',
    'Adapter',
    'LoRA',
    'LoRand',
    'LowRankAdapter',
    'StandardAdapter',
]
