"""Models that a config names with ``type='mmlowrank.X'``."""

from .averaged import TrainedEMA
from .mmdet_only import (
    AdaMixer,
    AdaMixerDecoder,
    AdaMixerNeck,
    AdaMixerQueries,
)
from .multi_task import MultiTaskE3VA
from .served import ServedTasks
from .stack_shared_model import StackSharedModel
from .stack_shared_vit import StackSharedViT
from .tuned_backbone import (
    SwinAdapter,
    SwinAdaptFormer,
    SwinARC,
    SwinBitFit,
    SwinCoLin,
    SwinE3VA,
    SwinFixed,
    SwinFull,
    SwinLoRA,
    SwinLoRand,
    SwinMona,
    SwinNormTuning,
    SwinPartial,
    SwinRLRR,
    SwinSSF,
    TunedBackbone,
)
from .tuned_model import TunedModel

__all__ = [
    'AdaMixer',
    'AdaMixerDecoder',
    'AdaMixerNeck',
    'AdaMixerQueries',
    'MultiTaskE3VA',
    'ServedTasks',
    'StackSharedModel',
    'StackSharedViT',
    'SwinARC',
    'SwinAdaptFormer',
    'SwinAdapter',
    'SwinBitFit',
    'SwinCoLin',
    'SwinE3VA',
    'SwinFixed',
    'SwinFull',
    'SwinLoRA',
    'SwinLoRand',
    'SwinMona',
    'SwinNormTuning',
    'SwinPartial',
    'SwinRLRR',
    'SwinSSF',
    'TrainedEMA',
    'TunedBackbone',
    'TunedModel',
]
