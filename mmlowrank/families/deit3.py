"""DeiT III of mmpretrain, whose blocks read their first norm twice.

The second one, ``ln2``, is there, and nothing reads it.
"""

from dataclasses import replace

from torch import nn

from ..registry import FAMILIES
from .anatomy import MLP, Block, Tap
from .vit import ViT


@FAMILIES.register_module()
class DeiT3(ViT):
    """DeiT3 of mmpretrain."""

    title = 'DeiT3 of mmpretrain'

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = backbone.layers[0]
        # No part tells it from a plain ViT's.
        return 'DeiT3' in type(block).__name__ and ViT.matches(backbone)

    def unused(self) -> set[str]:
        never = {
            f'{self.path(layer.ln2)}.{name}'
            for layer in self.backbone.layers
            for name, _ in layer.ln2.named_parameters()
        }
        return super().unused() | never

    def block(self, layer: nn.Module) -> Block:
        block, norm = super().block(layer), layer.ln1
        ffn = replace(block.branches['ffn'], stream=Tap(norm, 'in'))
        return replace(
            block,
            branches={**block.branches, 'ffn': ffn},
            norms=dict(attn=block.norms['attn']),
            mlp=MLP(norm, layer.ffn.layers, layer.ffn),
        )
