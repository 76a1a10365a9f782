"""SSF in a frozen trunk (NeurIPS 2022), a baseline of RLRR."""

from collections.abc import Sequence

from torch import nn

from ..families import Block, Family, Merging
from ..registry import TUNERS
from .swapping import SwappingTuner


@TUNERS.register_module()
class SSF(SwappingTuner):
    """A scale and a shift behind every operation of the trunk.

    Operations are the patch projection, the linear layers and norms of the
    blocks, and the last norm; in a Swin also the norms and linear layers of
    patch embedding and patch merging.

    Args:
        init: ``'paper'`` draws scales from N(1, 0.02) and shifts from
            N(0, 0.02); ``'identity'`` starts with ones and zeros.
        layers: Indices of the blocks that are adapted, counted through all
            stages from 0; negative ones from the end. Defaults to all. What
            is outside of the blocks is, in any case.

    Raises:
        ValueError: If ``init`` is unknown, or there is no such block.
    """

    def __init__(
        self,
        init: str = 'paper',
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.init = init
        self.layers = layers

    def build(self, trunk: Family) -> None:
        projection, norm = trunk.embedding
        if projection is not None and projection.behind is None:
            self.patch = self.scale_patch(projection)
        if norm is not None:
            self.patch_norm = self.scale_shift(norm)
        self.blocks = self.adapt_blocks(trunk)
        self.mergings = nn.ModuleList(
            self._merging(stage.merging)
            for stage in trunk.stages
            if stage.merging is not None
        )
        self.scale_output(trunk)

    def _merging(self, merging: Merging) -> nn.ModuleDict:
        parts = nn.ModuleDict()
        if merging.norm is not None:
            parts['norm'] = self.scale_shift(merging.norm)
        if merging.reduction is not None:
            parts['reduction'] = self.scale_shift(
                merging.reduction, before=merging.norm
            )
        return parts

    def adapt(self, block: Block) -> nn.ModuleDict:
        parts = nn.ModuleDict()
        for layers in block.linears.values():
            for name, layer in layers.items():
                # A scale and a shift behind the norm that follows a
                # convolution are as good as two of each.
                if layer.behind is None:
                    parts[name] = self.scale_shift(layer)
        for site, norm in block.norms.items():
            parts[f'norm_{site}'] = self.scale_shift(norm)
        return parts
