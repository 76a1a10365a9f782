"""Vision Transformer of mmpretrain: DeiT, MAE, CLIP, DINOv2, EVA.

One row of blocks, ``layers[i]``, and a last norm that only the last output
reads. Outputs of earlier layers leave without a norm.
"""

from abc import abstractmethod

from torch import Tensor, nn

from ..registry import FAMILIES
from .anatomy import MLP, Block, Layer, Norm, Output, Stage
from .base import Family, last_of


class RowOfBlocks(Family):
    """Base of the families whose blocks stand in one row.

    Attributes:
        last_norm: Name of the norm behind the last block.
    """

    rows = ('layers.',)
    last_norm = 'ln1'

    @classmethod
    def always_lacks(cls) -> dict[str, str]:
        return {
            'maps': 'its blocks are not told the size of the map, and some '
            'of their tokens may stand for no patch',
            **super().always_lacks(),
        }

    def build_stages(self) -> list[Stage]:
        layers = self.backbone.layers
        last = last_of(self.backbone.out_indices, len(layers))
        return [Stage([self.block(layer) for layer in layers[: last + 1]])]

    @abstractmethod
    def block(self, layer: nn.Module) -> Block:
        """Return the parts of one block."""

    def finish(self, tokens: Tensor, stock: Tensor) -> Tensor:
        """Return what the backbone makes of tokens, in the form of stock."""
        if hasattr(self.backbone, '_format_output'):
            # Of a map it takes the sizes, else it does not look.
            size = getattr(stock, 'shape', ())[-2:]
            return self.backbone._format_output(tokens, size)
        return tokens[:, self.prefix :].mT.reshape(stock.shape)

    @property
    def outputs(self) -> list[Output]:
        backbone, blocks = self.backbone, self.blocks
        whole = len(blocks) == len(backbone.layers) and backbone.final_norm
        return [
            Output((0, i), self.last_norm)
            if whole and i == len(blocks) - 1
            else Output((0, i), finish=self.finish)
            for i in range(len(blocks))
            if i in backbone.out_indices
        ]

    def unused(self) -> set[str]:
        last = {
            f'{self.last_norm}.{name}'
            for name, _ in self._last().named_parameters()
            if not self.output_norms
        }
        return super().unused() | last

    def _last(self) -> nn.Module:
        return getattr(self.backbone, self.last_norm, nn.Identity())

    @property
    def embedding(self) -> tuple[Layer | None, Norm | None]:
        embedding = self.backbone.patch_embed
        return self.layer(embedding.projection), self.norm(embedding.norm)


@FAMILIES.register_module()
class ViT(RowOfBlocks):
    """VisionTransformer of mmpretrain."""

    title = 'VisionTransformer of mmpretrain'

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = backbone.layers[0]
        return (
            isinstance(block.attn.qkv, nn.Linear)
            and hasattr(block.attn, 'out_drop')
            and hasattr(block, 'ln2')
        )

    @property
    def prefix(self) -> int:
        return self.backbone.num_extra_tokens

    def block(self, layer: nn.Module) -> Block:
        attn, ffn = layer.attn, layer.ffn
        plain = hasattr(ffn, 'layers')  # and not gated
        return self.block_of(
            layer,
            starts=dict(attn=layer.ln1, ffn=layer.ln2),
            ends=dict(attn=attn.out_drop, ffn=ffn.dropout_layer),
            linears=dict(attn=self.attention(attn), ffn=self.ffn(ffn)),
            mlp=MLP(layer.ln2, ffn.layers, ffn) if plain else None,
        )
