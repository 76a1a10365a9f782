"""ARC in a frozen trunk (NeurIPS 2023), a baseline of RLRR."""

from collections.abc import Iterable
from functools import partial

from torch import nn

from ..families import Family, Layer
from ..nn import arc
from ..registry import TUNERS
from .base import Tuner
from .folding import Change, compute_folded


@TUNERS.register_module()
class ARC(Tuner):
    """Re-composed adapters in front of attention and MLP of every block.

    The projections are shared by the blocks of one width: by all of a ViT,
    by those of one stage of a Swin. The adapters read what ``qkv`` and
    ``fc1`` read.

    Args:
        mid_channels: Width of the bottleneck.
    """

    needs = ('entries',)

    def __init__(
        self,
        mid_channels: int = 50,
    ) -> None:
        super().__init__()
        self.mid_channels = mid_channels

    def build(self, trunk: Family) -> None:
        self.stages = nn.ModuleList(
            nn.ModuleDict(
                {
                    site: arc.ARCAdapters(
                        stage.blocks[0].width,
                        len(stage.blocks),
                        self.mid_channels,
                    )
                    for site in stage.blocks[0].linears
                }
            )
            for stage in trunk.stages
        )
        for adapters, stage in zip(self.stages, trunk.stages, strict=True):
            for index, block in enumerate(stage.blocks):
                for site, layers in block.linears.items():
                    self._enter(layers.values(), adapters[site], index)

    def _enter(
        self, layers: Iterable[Layer], adapters: arc.ARCAdapters, index: int
    ) -> None:
        """Put an adapter in front of the layers that a branch begins with."""
        for layer in layers:
            if not layer.enters:
                continue
            fold = partial(adapters.fold, layer=index)
            if layer.called:
                layer.tap('in').change(partial(adapters, layer=index))
            else:
                compute_folded(layer, fold)
            self.changes.append(Change(layer, fold))
