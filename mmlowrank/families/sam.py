"""ViT of SAM in mmpretrain: maps of tokens, attention in windows or global.

The attention sees windows and has no module behind it: adapters stand behind
the attention itself, before the windows are put together again.
"""

from typing import ClassVar

from torch import nn

from ..registry import FAMILIES
from .anatomy import MLP, Block, Branch, Tap
from .base import Family
from .vit import RowOfBlocks


@FAMILIES.register_module()
class SAM(RowOfBlocks):
    """ViTSAM of mmpretrain."""

    title = 'ViTSAM of mmpretrain'
    lacks: ClassVar = dict.fromkeys(
        ('streams', 'maps', 'outputs'),
        'its attention ends in windows, the stream is a map',
    ) | {'prompts': 'its tokens are a map'}

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = backbone.layers[0]
        return hasattr(block, 'window_size') and hasattr(block.attn, 'qkv')

    outputs = Family.outputs

    def block(self, layer: nn.Module) -> Block:
        attn, ffn = layer.attn, layer.ffn
        block = self.block_of(
            layer,
            starts=dict(attn=layer.ln1, ffn=layer.ln2),
            ends=dict(attn=attn, ffn=ffn.dropout_layer),
            linears=dict(attn=self.attention(attn), ffn=self.ffn(ffn)),
            mlp=MLP(layer.ln2, ffn.layers, ffn),
        )
        behind = Tap(attn, 'out')
        block.branches['attn'] = Branch(Tap(layer.ln1, 'in'), behind, behind)
        return block
