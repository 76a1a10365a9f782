"""FULL: every parameter of the backbone trains."""

from torch import nn

from ..families import Family
from ..registry import TUNERS
from .named import StockTuner
from .weights import tensors_of


@TUNERS.register_module()
class Full(StockTuner):
    """Full fine-tuning, the upper row of every table."""

    def attach(
        self,
        backbone: nn.Module,
        stochastic_trunk: bool = True,
        memory: str = 'stock',
    ) -> nn.Module:
        """Attach; nothing of the trunk is frozen, so it stays as it is."""
        return super().attach(backbone, stochastic_trunk=True, memory='stock')

    def trained_stock(self, trunk: Family) -> set[str]:
        return {name for name, _ in tensors_of(trunk.backbone)}
