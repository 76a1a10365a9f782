"""Mona behind the residual sums of a frozen trunk (CVPR 2025)."""

from collections.abc import Sequence

from torch import nn

from ..nn import mona
from ..registry import TUNERS
from .serial import BOTTLENECK, SITES, check_sites
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
        sites: ``('attn', 'ffn')``, or one of them.

    Raises:
        ValueError: If an option is out of its range.
    """

    cannot_merge = BOTTLENECK

    def __init__(
        self,
        mid_channels: int = 64,
        dropout: float = 0.1,
        init: str = 'paper',
        sites: Sequence[str] = SITES,
    ) -> None:
        super().__init__()
        self.sites = check_sites(sites, 'Mona')
        self.options = dict(
            mid_channels=mid_channels, dropout=dropout, init=init
        )

    def make_adapter(self, width: int) -> nn.Module:
        return mona.MonaAdapter(width, **self.options)
