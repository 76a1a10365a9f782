"""Vision Transformers of timm behind ``TIMMBackbone``: most ViTs, DINOv3, EVA.

With ``features_only=True`` a timm model returns maps of some blocks, else the
tokens behind its last norm.
"""

from torch import nn

from ..registry import FAMILIES
from .anatomy import Block, Layer, Norm, Output, Stage
from .vit import RowOfBlocks


@FAMILIES.register_module()
class TimmViT(RowOfBlocks):
    """VisionTransformer and Eva of timm, as mmpretrain and mmseg wrap them."""

    title = 'ViT of timm'
    rows = ()

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self.vit = _inner(backbone)
        self.maps = self.vit is not backbone.timm_model
        if getattr(self.vit, 'rope', None) is not None:
            self.lacks['prompts'] = 'its rotary positions are of patches only'
        attn = self.vit.blocks[0].attn
        if getattr(attn, 'relative_position_bias_table', None) is not None:
            self.lacks['prompts'] = 'its position biases are of patches only'

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = _inner(backbone).blocks[0]
        # Others with these parts have their norms behind the branches.
        return type(block).__name__ in ('Block', 'EvaBlock') and all(
            (
                hasattr(block, 'drop_path2'),
                hasattr(_inner(backbone), 'num_prefix_tokens'),
                hasattr(_inner(backbone).patch_embed, 'proj'),
            )
        )

    @property
    def prefix(self) -> int:
        return self.vit.num_prefix_tokens

    def build_stages(self) -> list[Stage]:
        return [Stage([self.block(block) for block in self.vit.blocks])]

    @property
    def outputs(self) -> list[Output]:
        if self.maps:
            return [
                Output((0, i), finish=self.finish)
                for i in sorted(self.backbone.timm_model.out_indices)
            ]
        last = len(self.vit.blocks) - 1
        return [Output((0, last), self.path(self.vit.norm))]

    @property
    def embedding(self) -> tuple[Layer | None, Norm | None]:
        embedding = self.vit.patch_embed
        norm = getattr(embedding, 'norm', None)
        return self.layer(embedding.proj), self.norm(norm)

    def block(self, layer: nn.Module) -> Block:
        attn, mlp = layer.attn, layer.mlp
        if getattr(attn, 'qkv', None) is not None:
            entries = dict(qkv=self.projection(attn))
        else:
            entries = {
                part: self.layer(getattr(attn, f'{part}_proj'), enters=True)
                for part in 'qkv'
            }
        ours = dict(fc1_g='gate', fc1_x='fc1', fc1='fc1', fc2='fc2')
        ffn = {
            ours[name]: self.layer(module, enters=name != 'fc2')
            for name, module in mlp.named_children()
            if name in ours
        }
        return self.block_of(
            layer,
            starts=dict(attn=layer.norm1, ffn=layer.norm2),
            ends=dict(attn=layer.drop_path1, ffn=layer.drop_path2),
            linears=dict(
                attn=dict(entries, proj=self.layer(attn.proj)), ffn=ffn
            ),
        )


def _inner(backbone: nn.Module) -> nn.Module:
    """Return the ViT inside what timm may wrap it in."""
    model = backbone.timm_model
    return model.model if hasattr(model, 'model') else model
