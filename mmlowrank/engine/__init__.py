"""Training machinery: optimizer groups, hooks, the distributed wrapper."""

from .ddp import TunerDistributedDataParallel
from .freeze_audit import FreezeAuditHook
from .optim_constructor import TunerOptimWrapperConstructor

__all__ = [
    'FreezeAuditHook',
    'TunerDistributedDataParallel',
    'TunerOptimWrapperConstructor',
]
