"""Swin Transformer V2 of mmpretrain.

Norms stand behind the branches, and patches are merged in front of a stage.
A norm sees its branch after stochastic depth, so adapters come after both.
The linear layer of a merging is left alone: between it and the norm behind it
no stock checkpoint has a place for a shift. Where a block ends in a further
norm (in the huge and giant ones), the highway's difference passes beside it.
"""

from dataclasses import replace

from torch import nn

from ..registry import FAMILIES
from .anatomy import Block, Branch, Merging, Stage, Tap
from .base import last_of
from .swin import Swin, run_merging


@FAMILIES.register_module()
class SwinV2(Swin):
    """SwinTransformerV2 of mmpretrain."""

    title = 'Swin Transformer V2'

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        attn = backbone.stages[0].blocks[0].attn
        return hasattr(attn.w_msa, 'cpb_mlp')

    def build_stages(self) -> list[Stage]:
        stages = self.backbone.stages
        last = last_of(self.backbone.out_indices, len(stages))
        return [
            Stage(
                [self.block(block) for block in stage.blocks],
                self._merging_before(stages[i + 1]) if i < last else None,
            )
            for i, stage in enumerate(stages[: last + 1])
        ]

    def _merging_before(self, stage: nn.Module) -> Merging:
        merging = stage.downsample
        return Merging(merging, run_merging, norm=self.norm(merging.norm))

    def block(self, block: nn.Module) -> Block:
        stock = super().block(block)
        starts = dict(attn=block.attn, ffn=block.ffn)
        ends = dict(attn=block.norm1, ffn=block.norm2)
        return replace(
            stock,
            branches={
                name: Branch(Tap(starts[name], 'in'), *(Tap(end, 'out'),) * 2)
                for name, end in ends.items()
            },
            mlp=None,
            closed=block.extra_norm,
        )
