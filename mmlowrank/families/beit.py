"""BEiT of mmpretrain and mmseg, and mmseg's MAE.

A block ends both branches with one module, and multiplies by its layer
scale before it. The query-key-value projection may have a bias in two parts
that the attention adds itself.
"""

from typing import ClassVar

from torch import nn

from ..registry import FAMILIES
from .anatomy import Block
from .vit import RowOfBlocks


@FAMILIES.register_module()
class BEiT(RowOfBlocks):
    """BEiTViT of mmpretrain, BEiT and MAE of mmseg."""

    title = 'BEiT of mmpretrain or mmseg'
    lacks: ClassVar = {
        'prompts': 'its position biases have places for patches only'
    }

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = backbone.layers[0]
        return hasattr(block, 'drop_path') and hasattr(block.attn, 'bias')

    @property
    def last_norm(self) -> str:
        """mmseg calls it ``norm1``, an alias of its name there."""
        return getattr(self.backbone, 'norm1_name', 'ln1')

    @property
    def prefix(self) -> int:
        return getattr(self.backbone, 'num_extra_tokens', 1)

    def block(self, layer: nn.Module) -> Block:
        attn, ffn = layer.attn, layer.ffn
        return self.block_of(
            layer,
            starts=dict(attn=layer.norm1, ffn=layer.norm2),
            ends=dict(attn=layer.drop_path, ffn=layer.drop_path),
            linears=dict(attn=self.attention(attn), ffn=self.ffn(ffn)),
        )
