"""SSF in a frozen ViT or Swin (NeurIPS 2022), a baseline of RLRR."""

from torch import nn

from ..nn.ssf import SSFConv2d, SSFLayerNorm, SSFLinear
from ..registry import TUNERS
from .anatomy import Block
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

    Raises:
        ValueError: If ``init`` is unknown.
    """

    def __init__(
        self,
        init: str = 'paper',
    ) -> None:
        super().__init__()
        self.init = init

    def build(self, backbone: nn.Module) -> None:
        stages = self.stages_of(backbone)
        embedding = backbone.patch_embed
        self.patch = SSFConv2d.swap(embedding.projection, self.init)
        if isinstance(embedding.norm, nn.LayerNorm):
            self.patch_norm = SSFLayerNorm.swap(embedding.norm, self.init)
        self.blocks = nn.ModuleList(
            self._adapt(block) for stage in stages for block in stage.blocks
        )
        self.mergings = nn.ModuleList(
            nn.ModuleDict(
                dict(
                    norm=SSFLayerNorm.swap(merging.norm, self.init),
                    reduction=SSFLinear.swap(merging.reduction, self.init),
                )
            )
            for merging in (stage.downsample for stage in stages)
            if merging is not None
        )
        output = self.output_norm(backbone)
        if output is not None:
            self.output = SSFLayerNorm.swap(output, self.init)

    def _adapt(self, block: Block) -> nn.ModuleDict:
        parts = nn.ModuleDict()
        for linears in block.linears.values():
            for name, linear in linears.items():
                parts[name] = SSFLinear.swap(linear, self.init)
        for site, norm in block.norms.items():
            parts[f'norm_{site}'] = SSFLayerNorm.swap(norm, self.init)
        return parts
