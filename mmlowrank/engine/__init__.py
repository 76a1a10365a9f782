"""Training machinery: optimizer groups, schedules, hooks, DDP wrapper."""

from .adapter_hook import AdapterCheckpointHook
from .ddp import TunerDistributedDataParallel
from .feature_cache import FeatureCacheHook
from .freeze_audit import FreezeAuditHook
from .master_logger import MasterLoggerHook
from .optim_constructor import TunerOptimWrapperConstructor
from .pictures import PicturesHook
from .replay import ReplayHook
from .schedulers import TimmCosineLR

__all__ = [
    'AdapterCheckpointHook',
    'FeatureCacheHook',
    'FreezeAuditHook',
    'MasterLoggerHook',
    'PicturesHook',
    'ReplayHook',
    'TimmCosineLR',
    'TunerDistributedDataParallel',
    'TunerOptimWrapperConstructor',
]
