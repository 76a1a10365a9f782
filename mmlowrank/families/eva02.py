"""EVA02 of mmpretrain: rotary positions, and gated MLPs with a norm inside."""

from typing import ClassVar

from torch import nn

from ..registry import FAMILIES
from .anatomy import Block
from .vit import ViT


@FAMILIES.register_module()
class EVA02(ViT):
    """ViTEVA02 of mmpretrain."""

    title = 'ViTEVA02 of mmpretrain'
    lacks: ClassVar = {'prompts': 'its rotary positions are of patches only'}

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = backbone.layers[0]
        return hasattr(block.attn, 'rope') and hasattr(block.mlp, 'w12')

    def block(self, layer: nn.Module) -> Block:
        return self.block_of(
            layer,
            starts=dict(attn=layer.norm1, ffn=layer.norm2),
            ends=dict(attn=layer.drop_path, ffn=layer.drop_path),
            linears=dict(
                attn=self.attention(layer.attn), ffn=self.ffn(layer.mlp)
            ),
        )
