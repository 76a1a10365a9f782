"""LoRand in a frozen trunk (CVPR 2023, section 3 and figure 2)."""

from torch import nn

from ..nn import lorand
from ..registry import TUNERS
from .serial import SerialTuner


@TUNERS.register_module()
class LoRand(SerialTuner):
    """Low-rank adapters behind attention and MLP of every block.

    The paper's LoRand, LoRand+ and LoRand++ are (branches, rank) = (2, 8),
    (4, 8) and (4, 16). The output norms stay frozen.

    Args:
        branches: Products summed in each projection (the paper's alpha).
        rank: Rank of each product (beta).
        mid_channels: Width between the projections, in every block.
            Defaults to half of each block's width.
        share_kernel: Share K between the two projections.
        init: ``'identity'`` or ``'kaiming'``.
    """

    def __init__(
        self,
        branches: int = 2,
        rank: int = 8,
        mid_channels: int | None = None,
        share_kernel: bool = True,
        init: str = 'identity',
    ) -> None:
        super().__init__()
        self.options = dict(
            branches=branches,
            rank=rank,
            mid_channels=mid_channels,
            share_kernel=share_kernel,
            init=init,
        )

    def make_adapter(self, width: int) -> nn.Module:
        return lorand.LoRandAdapter(width, **self.options)
