"""Models that a config names with ``type='mmlowrank.X'``."""

from .multi_task import MultiTaskE3VA
from .tuned_backbone import (
    SwinAdapter,
    SwinAdaptFormer,
    SwinBitFit,
    SwinE3VA,
    SwinFixed,
    SwinFull,
    SwinLoRA,
    SwinLoRand,
    SwinNormTuning,
    SwinPartial,
    TunedBackbone,
)

__all__ = [
    'MultiTaskE3VA',
    'SwinAdaptFormer',
    'SwinAdapter',
    'SwinBitFit',
    'SwinE3VA',
    'SwinFixed',
    'SwinFull',
    'SwinLoRA',
    'SwinLoRand',
    'SwinNormTuning',
    'SwinPartial',
    'TunedBackbone',
]
