"""LoRand in a frozen trunk (CVPR 2023, section 3 and figure 2)."""

from collections.abc import Sequence

from torch import nn

from ..families import Family
from ..nn import lorand
from ..registry import TUNERS
from .placement import SITES, ranks_of
from .serial import SerialTuner


@TUNERS.register_module()
class LoRand(SerialTuner):
    """Low-rank adapters behind attention and MLP of every block.

    The paper's LoRand, LoRand+ and LoRand++ are (branches, rank) = (2, 8),
    (4, 8) and (4, 16). The output norms stay frozen.

    Args:
        branches: Products summed in each projection (the paper's alpha).
        rank: Rank of each product (beta); one number, or one for each stage.
        mid_channels: Width between the projections, in every block.
            Defaults to half of each block's width.
        share_kernel: Share K between the two projections.
        init: ``'identity'`` or ``'kaiming'``.
        sites: ``'attn'``, ``'ffn'`` or both: the branches with an adapter.
        layers: Indices of the blocks with adapters, counted through all
            stages from 0; negative ones from the end. Defaults to all.

    Raises:
        ValueError: If a site is unknown, there is no such block, or the rank
            does not fit.
    """

    def __init__(
        self,
        branches: int = 2,
        rank: int | Sequence[int] = 8,
        mid_channels: int | None = None,
        share_kernel: bool = True,
        init: str = 'identity',
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(sites, layers)
        self.rank = rank
        self.options = dict(
            branches=branches,
            mid_channels=mid_channels,
            share_kernel=share_kernel,
            init=init,
        )

    def build(self, trunk: Family) -> None:
        self._ranks = ranks_of(self.rank, trunk, 'LoRand')
        super().build(trunk)

    def make_adapter(self, width: int, stage: int) -> nn.Module:
        return lorand.LoRandAdapter(
            width, rank=self._ranks[stage], **self.options
        )
