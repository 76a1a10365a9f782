"""EVA02 of mmpretrain: rotary positions, and gated MLPs with a norm inside."""

from typing import ClassVar

from torch import nn

from ..registry import FAMILIES
from .anatomy import Block, Branch, Tap, Turns
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
        starts = dict(attn=layer.norm1, ffn=layer.norm2)
        turns = Turns(**starts)
        return Block(
            module=layer,
            width=layer.attn.qkv.in_features,
            branches={
                name: Branch(
                    stream=Tap(start, 'in'),
                    end=Tap(layer.drop_path, 'in', turn=(turns, name)),
                    output=Tap(layer.drop_path, 'out', turn=(turns, name)),
                )
                for name, start in starts.items()
            },
            linears=dict(
                attn=dict(
                    qkv=self.layer(layer.attn.qkv, parts=3, enters=True),
                    proj=self.layer(layer.attn.proj),
                ),
                ffn=self.ffn(layer.mlp),
            ),
            norms=self.norms(**starts),
        )
