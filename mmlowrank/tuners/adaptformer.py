"""AdaptFormer in a frozen trunk, a baseline of the E3VA paper."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..families import Block, Family
from ..nn import adaptformer
from ..registry import TUNERS
from .base import BlockTuner
from .placement import check_sites
from .serial import BOTTLENECK, SITES, sites_of


@TUNERS.register_module()
class AdaptFormer(BlockTuner):
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

    needs = ('streams',)
    cannot_merge = BOTTLENECK

    def __init__(
        self,
        mid_channels: int = 64,
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
        scale: float = 0.1,
        hidden_dropout: float = 0.1,
    ) -> None:
        super().__init__(layers)
        self.sites = check_sites(sites, 'AdaptFormer', SITES)
        self.options = dict(
            mid_channels=mid_channels,
            scale=scale,
            hidden_dropout=hidden_dropout,
        )

    def build(self, trunk: Family) -> None:
        # Bottleneck -> what it reads, from the norm to the branch's end.
        self._streams: dict[nn.Module, Tensor] = {}
        super().build(trunk)
        # Also when the forward fails.
        trunk.backbone.register_forward_hook(self._clear, always_call=True)

    def adapt(self, block: Block, stage: int) -> nn.ModuleDict:
        beside = nn.ModuleDict()
        for site in sites_of(block, self):
            beside[site] = adaptformer.ParallelBottleneck(
                block.width, **self.options
            )
            branch = block.branches[site]
            branch.stream.read(partial(self._read, beside[site]))
            branch.output.change(partial(self._add, beside[site]))
        return beside

    def _read(self, bottleneck: nn.Module, stream: Tensor) -> None:
        self._streams[bottleneck] = stream

    def _add(self, bottleneck: nn.Module, out: Tensor) -> Tensor:
        stream = self._streams.pop(bottleneck, None)
        if stream is None:
            raise RuntimeError(
                'a part of a block runs again without the norm before it, '
                'whose input AdaptFormer reads: checkpoint whole blocks or '
                'stages instead'
            )
        return out + bottleneck(stream)

    def _clear(self, *_: object) -> None:
        self._streams.clear()
