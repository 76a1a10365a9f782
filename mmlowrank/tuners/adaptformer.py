"""AdaptFormer in a frozen trunk, a baseline of the E3VA paper."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..families import Block
from ..nn import adaptformer
from ..registry import TUNERS
from .placement import SITES
from .streams import Addition, StreamTuner


@TUNERS.register_module()
class AdaptFormer(StreamTuner):
    """Scaled bottlenecks in parallel to the sub-layers of every block.

    A bottleneck reads the residual stream, as the sub-layer's norm does,
    and is added to it without stochastic depth.

    Args:
        mid_channels: Width of the bottleneck.
        sites: ``('attn', 'ffn')`` as the E3VA paper's counts need, or
            ``('ffn',)`` as in the original paper.
        layers: Indices of the blocks with bottlenecks, counted through all
            stages from 0; negative ones from the end. Defaults to all.
        scale: The constant factor of the branch.
        hidden_dropout: Dropout rate of the hidden vector.

    Raises:
        ValueError: If a site is unknown, or there is no such block.
    """

    def __init__(
        self,
        mid_channels: int = 64,
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
        scale: float = 0.1,
        hidden_dropout: float = 0.1,
    ) -> None:
        super().__init__(sites, layers)
        self.options = dict(
            mid_channels=mid_channels,
            scale=scale,
            hidden_dropout=hidden_dropout,
        )

    def make_adapter(self, width: int, stage: int) -> nn.Module:
        return adaptformer.ParallelBottleneck(width, **self.options)

    def addition(self, block: Block) -> Addition:
        return _beside


def _beside(bottleneck: nn.Module, stream: Tensor, out: Tensor) -> Tensor:
    return bottleneck(stream)
