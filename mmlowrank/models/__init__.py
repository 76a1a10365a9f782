"""Models that a config names with ``type='mmlowrank.X'``."""

from .multi_task import MultiTaskE3VA
from .tuned_backbone import (
    SwinAdapter,
    SwinAdaptFormer,
    SwinARC,
    SwinBitFit,
    SwinE3VA,
    SwinFixed,
    SwinFull,
    SwinLoRA,
    SwinLoRand,
    SwinNormTuning,
    SwinPartial,
    SwinRLRR,
    SwinSSF,
    TunedBackbone,
)

__all__ = [
    'MultiTaskE3VA',
    'SwinARC',
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
    'SwinRLRR',
    'SwinSSF',
    'TunedBackbone',
]
