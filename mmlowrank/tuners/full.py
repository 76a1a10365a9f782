"""FULL: every parameter of the backbone trains."""

from typing import Any

from torch import Tensor, nn

from ..families import Family
from ..registry import TUNERS
from .named import StockTuner


@TUNERS.register_module()
class Full(StockTuner):
    """Full fine-tuning, the upper row of every table."""

    def attach(self, backbone: nn.Module, **trunk: Any) -> nn.Module:
        """Attach; nothing of the trunk is frozen, so it stays as it is."""
        trunk.update(stochastic_trunk=True, memory='stock')
        return super().attach(backbone, **trunk)

    def trained_stock(self, trunk: Family) -> list[str]:
        return ['']

    def owned(self) -> dict[str, Tensor]:
        # Nothing is shared with a base, so computed buffers belong to it too.
        buffers = self.backbone.named_buffers(remove_duplicate=False)
        return super().owned() | dict(buffers)
