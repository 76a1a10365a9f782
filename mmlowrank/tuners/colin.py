"""CoLin behind the residual sums of a frozen trunk (arXiv 2602.10513)."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..nn import colin
from ..registry import TUNERS
from .losses import orthogonality_loss
from .serial import BOTTLENECK, SITES, check_sites
from .streams import BehindSum


@TUNERS.register_module()
class CoLin(BehindSum):
    """Low-rank adapters with a depthwise convolution, two in every block.

    They stand behind the residual sums and read the tokens as a map. A loss
    keeps their factors near orthogonal: ``loss_orthogonality``, which
    training adds to those of the model (see :mod:`.losses`).

    Args:
        mid_channels: Width of the adapters between their projections.
        rank: Rank of both projections.
        branches: Number of diagonals summed in a projection.
        orthogonality: Weight of the loss.
        init: ``'paper'``, which is not the stock model at the start, or
            ``'identity'``.
        sites: ``('attn', 'ffn')``, or one of them.

    Raises:
        ValueError: If an option is out of its range.
    """

    cannot_merge = BOTTLENECK

    def __init__(
        self,
        mid_channels: int = 100,
        rank: int = 28,
        branches: int = 4,
        orthogonality: float = 0.5,
        init: str = 'paper',
        sites: Sequence[str] = SITES,
    ) -> None:
        super().__init__()
        self.sites = check_sites(sites, 'CoLin')
        self.orthogonality = orthogonality
        self.options = dict(
            mid_channels=mid_channels, rank=rank, branches=branches, init=init
        )

    def make_adapter(self, width: int) -> nn.Module:
        return colin.CoLinAdapter(width, **self.options)

    def losses(self) -> dict[str, Tensor]:
        return orthogonality_loss(self, self.orthogonality)
