"""The distributed wrapper that tools/train.py uses."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from torch import nn

from ..registry import MODEL_WRAPPERS
from ..tuners import freeze_matching


@MODEL_WRAPPERS.register_module()
class TunerDistributedDataParallel(MMDistributedDataParallel):
    """MMDistributedDataParallel that freezes first and runs on CPUs too.

    mmengine wraps the model before it builds the optimizer, and DDP waits
    for a gradient of every parameter that was trainable when it wrapped.
    So what ``optim_wrapper.freeze`` names must be frozen here.

    Args:
        module: The model.
        freeze: See :func:`mmlowrank.tuners.freeze_matching`.
        device_ids: GPU of this process; ignored where the model is on the
            CPU, which DDP requires.
        broadcast_buffers: Off by default, as in mmengine's own default.
        **kwargs: For ``torch.nn.parallel.DistributedDataParallel``.
    """

    def __init__(
        self,
        module: nn.Module,
        freeze: Sequence[str] = (),
        device_ids: list[int] | None = None,
        broadcast_buffers: bool = False,
        **kwargs: Any,
    ) -> None:
        freeze_matching(module, freeze)
        if all(p.device.type == 'cpu' for p in module.parameters()):
            device_ids = None
            # SyncBN has no CPU kernel.
            module = revert_sync_batchnorm(module)
        super().__init__(
            module,
            device_ids=device_ids,
            broadcast_buffers=broadcast_buffers,
            **kwargs,
        )
