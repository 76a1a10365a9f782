"""Mona behind the residual sums of a frozen trunk (CVPR 2025)."""

from collections.abc import Sequence

from torch import nn

from ..nn import mona
from ..registry import TUNERS
from .placement import SITES
from .streams import BehindSum


@TUNERS.register_module()
class Mona(BehindSum):
    """Adapters with depthwise convolutions, two in every block.

    They stand behind the residual sums and read the tokens as a map.

    Args:
        mid_channels: Width of the adapters between their projections.
        dropout: Dropout rate of the hidden vector.
        init: ``'paper'``, which is not the stock model at the start, or
            ``'identity'``.
        sites: ``'attn'``, ``'ffn'`` or both: the branches with an adapter.
        layers: Indices of the blocks with adapters, counted through all
            stages from 0; negative ones from the end. Defaults to all.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        mid_channels: int = 64,
        dropout: float = 0.1,
        init: str = 'paper',
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(sites, layers)
        self.options = dict(
            mid_channels=mid_channels, dropout=dropout, init=init
        )

    def make_adapter(self, width: int, stage: int) -> nn.Module:
        return mona.MonaAdapter(width, **self.options)
