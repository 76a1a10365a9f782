"""CoLin behind the residual sums of a frozen trunk (arXiv 2602.10513)."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..families import Family
from ..nn import colin
from ..registry import TUNERS
from .losses import orthogonality_loss
from .placement import SITES, ranks_of
from .streams import BehindSum


@TUNERS.register_module()
class CoLin(BehindSum):
    """Low-rank adapters with a depthwise convolution, two in every block.

    They stand behind the residual sums and read the tokens as a map. A loss
    keeps their factors near orthogonal: ``loss_orthogonality``, which
    training adds to those of the model (see :mod:`.losses`).

    Args:
        mid_channels: Width of the adapters between their projections.
        rank: Rank of both projections; one number, or one for each stage.
        branches: Number of diagonals summed in a projection.
        orthogonality: Weight of the loss.
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
        mid_channels: int = 100,
        rank: int | Sequence[int] = 28,
        branches: int = 4,
        orthogonality: float = 0.5,
        init: str = 'paper',
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(sites, layers)
        self.rank = rank
        self.orthogonality = orthogonality
        self.options = dict(
            mid_channels=mid_channels, branches=branches, init=init
        )

    def build(self, trunk: Family) -> None:
        self._ranks = ranks_of(self.rank, trunk, 'CoLin')
        super().build(trunk)

    def make_adapter(self, width: int, stage: int) -> nn.Module:
        return colin.CoLinAdapter(
            width, rank=self._ranks[stage], **self.options
        )

    def losses(self) -> dict[str, Tensor]:
        return orthogonality_loss(self, self.orthogonality)
