"""The Houlsby adapter in a frozen trunk, baseline of LoRand and E3VA."""

from collections.abc import Sequence

from torch import nn

from ..nn import adapter
from ..registry import TUNERS
from .placement import SITES
from .serial import SerialTuner


@TUNERS.register_module()
class Adapter(SerialTuner):
    """Dense adapters behind attention and MLP of every block.

    The LoRand paper's ADAPTER-B and ADAPTER-T are ``mid_ratio`` 0.5 and
    0.25; the E3VA paper's ADAPTER is ``mid_channels=64``. The counts of the
    RLRR paper's Adapter on ViT-B are those of ``mid_ratio=1 / 64`` behind the
    MLP alone.

    Args:
        mid_ratio: Width of the bottleneck as a part of the block's width.
        mid_channels: Width of the bottleneck in every block; overrides
            ``mid_ratio``.
        hidden_dropout: Dropout rate of the hidden vector.
        sites: ``'attn'``, ``'ffn'`` or both: the branches with an adapter.
        layers: Indices of the blocks with adapters, counted through all
            stages from 0; negative ones from the end. Defaults to all.

    Raises:
        ValueError: If a site is unknown, or there is no such block.
    """

    def __init__(
        self,
        mid_ratio: float = 0.5,
        mid_channels: int | None = None,
        hidden_dropout: float = 0.1,
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(sites, layers)
        self.mid_ratio = mid_ratio
        self.mid_channels = mid_channels
        self.hidden_dropout = hidden_dropout

    def make_adapter(self, width: int, stage: int) -> nn.Module:
        mid_channels = self.mid_channels
        if mid_channels is None:
            mid_channels = int(width * self.mid_ratio)
        return adapter.HoulsbyAdapter(width, mid_channels, self.hidden_dropout)
