"""Training machinery: optimizer groups, schedules, hooks, DDP wrapper."""

from .ddp import TunerDistributedDataParallel
from .freeze_audit import FreezeAuditHook
from .logger_hook import MasterLoggerHook
from .optim_constructor import TunerOptimWrapperConstructor
from .schedulers import TimmCosineLR

__all__ = [
    'FreezeAuditHook',
    'MasterLoggerHook',
    'TimmCosineLR',
    'TunerDistributedDataParallel',
    'TunerOptimWrapperConstructor',
]
