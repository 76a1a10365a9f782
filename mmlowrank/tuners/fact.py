"""FacT-TK in a frozen trunk (AAAI 2023), a baseline of the RLRR paper."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from ..families import Family, Layer
from ..nn import fact
from ..registry import TUNERS
from .base import Tuner
from .folding import Change, compute_folded


@TUNERS.register_module()
class FacT(Tuner):
    """One Tucker-factorised update of every linear layer of the blocks.

    Args:
        rank: Of all factors; the RLRR paper compares with at most 32,
            chosen for each data set.
        scale: Factor of the update, chosen for each data set in the paper.

    Raises:
        TypeError: If the blocks differ in width, as a Swin's do.
    """

    needs = ('linears', 'one width')

    def __init__(
        self,
        rank: int = 16,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.options = dict(rank=rank, scale=scale)

    def build(self, trunk: Family) -> None:
        layers = list(self._layers(trunk))
        width = trunk.blocks[0].width
        self.factors = fact.FacTFactors(
            width, layers[-1][1].stop, **self.options
        )
        for layer, blocks in layers:
            fold = partial(self.factors.fold, blocks=blocks)
            if layer.called:
                layer.module.register_forward_hook(
                    partial(_updated, self.factors, blocks)
                )
            else:
                compute_folded(layer, fold)
            self.changes.append(Change(layer, fold, adds=True))

    def _layers(self, trunk: Family) -> Iterator[tuple[Layer, range]]:
        """Yield each linear layer and its blocks in the stack."""
        width, start = trunk.blocks[0].width, 0
        for block in trunk.blocks:
            for layers in block.linears.values():
                for layer in layers.values():
                    size = layer.shape.numel()
                    if block.width != width or size % width**2:
                        raise TypeError(
                            'FacT cannot be attached to '
                            f'{type(trunk.backbone).__name__}: its factors '
                            'are shared by all blocks, which must have one '
                            'width and an MLP that is a multiple of it'
                        )
                    stop = start + size // width**2
                    yield layer, range(start, stop)
                    start = stop


def _updated(
    factors: nn.Module,
    blocks: range,
    module: nn.Module,
    args: tuple[Tensor],
    out: Tensor,
) -> Tensor:
    return out + factors(args[0], blocks)
