"""FULL: every parameter of the backbone trains."""

from torch import nn

from ..registry import TUNERS
from .named import StockTuner


@TUNERS.register_module()
class Full(StockTuner):
    """Full fine-tuning, the upper row of every table."""

    def __init__(self) -> None:
        # Nothing of the trunk is frozen, so there is no choice to make.
        super().__init__(stochastic_trunk=True)

    def trained_stock(self, backbone: nn.Module) -> set[str]:
        names = {name for name, _ in backbone.named_parameters()}
        return names | {name for name, _ in backbone.named_buffers()}
