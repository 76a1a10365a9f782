"""Vision Transformer of mmseg, whose attention is PyTorch's."""

from torch import nn

from ..registry import FAMILIES
from .anatomy import MLP, Block
from .vit import RowOfBlocks


@FAMILIES.register_module()
class MMSegViT(RowOfBlocks):
    """VisionTransformer of mmseg."""

    title = 'VisionTransformer of mmseg'

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self.last_norm = getattr(backbone, 'norm1_name', '')
        if backbone.output_cls_token or backbone.out_origin:
            self.lacks['outputs'] = (
                'with output_cls_token=True or out_origin=True it returns '
                'more than maps of its blocks'
            )

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = backbone.layers[0]
        return isinstance(block.attn.attn, nn.MultiheadAttention) and hasattr(
            block.ffn, 'dropout_layer'
        )

    @property
    def prefix(self) -> int:
        return int(self.backbone.with_cls_token)

    def block(self, layer: nn.Module) -> Block:
        attn, ffn = layer.attn, layer.ffn
        return self.block_of(
            layer,
            starts=dict(attn=layer.norm1, ffn=layer.norm2),
            ends=dict(attn=attn.dropout_layer, ffn=ffn.dropout_layer),
            linears=dict(
                attn=self.pytorch_attention(attn.attn), ffn=self.ffn(ffn)
            ),
            mlp=MLP(layer.norm2, ffn.layers, ffn),
        )
