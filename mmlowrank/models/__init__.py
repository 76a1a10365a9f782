"""Models that a config names with ``type='mmlowrank.X'``."""

from .mmdet_only import (
    AdaMixer,
    AdaMixerDecoder,
    AdaMixerNeck,
    AdaMixerQueries,
)
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
    'AdaMixer',
    'AdaMixerDecoder',
    'AdaMixerNeck',
    'AdaMixerQueries',
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
