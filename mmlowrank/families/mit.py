"""MiT (SegFormer) of mmseg and PVT of mmdet.

A stage is (patch embedding, blocks, norm). What the norm returns is both an
output and the input of the next patch embedding, so it belongs to the trunk,
and the highway goes through it.
"""

from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from ..registry import FAMILIES
from .anatomy import Block, Layer, Merging, Norm, Output, Stage
from .base import Family, last_of


@FAMILIES.register_module()
class MiT(Family):
    """MixVisionTransformer of mmseg; PyramidVisionTransformer of mmdet."""

    title = 'MixVisionTransformer of mmseg, PVT of mmdet'
    rows = ('layers.',)
    hierarchical = True
    lacks: ClassVar = {'prompts': 'its keys are read as a map'}

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = backbone.layers[0][1][-1]
        return hasattr(block.attn, 'sr_ratio') and hasattr(block.ffn, 'layers')

    def build_stages(self) -> list[Stage]:
        layers = self.backbone.layers
        last = last_of(self.backbone.out_indices, len(layers))
        return [
            Stage(
                # The first of PVT's are position embeddings.
                [self._block(b) for b in layer[1] if hasattr(b, 'attn')],
                self._merging(layer, layers[i + 1]) if i < last else None,
            )
            for i, layer in enumerate(layers[: last + 1])
        ]

    @property
    def outputs(self) -> list[Output]:
        return [
            Output(
                (i, len(stage.blocks) - 1),
                finish=partial(_finish, self.backbone.layers[i][2]),
            )
            for i, stage in enumerate(self.stages)
            if i in self.backbone.out_indices
        ]

    @property
    def output_norms(self) -> list[str]:
        norms = [layer[2] for layer in self.backbone.layers]
        norms = map(self.norm, norms[: len(self.stages)])
        return [norm.path for norm in norms if norm is not None]

    @property
    def embedding(self) -> tuple[Layer | None, Norm | None]:
        embedding = self.backbone.layers[0][0]
        return self.layer(embedding.projection), self.norm(embedding.norm)

    def unused(self) -> set[str]:
        used = self.backbone.layers[: len(self.stages)]
        reached = {id(p) for p in used.parameters()}
        return {
            name
            for name, parameter in self.backbone.layers.named_parameters(
                'layers'
            )
            if id(parameter) not in reached
        }

    def _block(self, block: nn.Module) -> Block:
        attn, ffn = block.attn, block.ffn
        return self.block_of(
            block,
            starts=dict(attn=block.norm1, ffn=block.norm2),
            ends=dict(attn=attn.dropout_layer, ffn=ffn.dropout_layer),
            linears=dict(
                attn=self.pytorch_attention(attn.attn), ffn=self.ffn(ffn)
            ),
            sized=attn,
        )

    def _merging(self, stage: nn.Module, after: nn.Module) -> Merging:
        return Merging(
            after[0],
            partial(_run, stage[2]),
            reduction=self.layer(after[0].projection),
        )


def _run(
    norm: nn.Module, embed: nn.Module, tokens: Tensor, args: tuple
) -> Tensor:
    return embed.forward(_finish(norm, tokens, args[0]))[0]


def _finish(norm: nn.Module, tokens: Tensor, stock: Tensor) -> Tensor:
    """Return the map of a stage's tokens, as the stock one is shaped."""
    return norm.forward(tokens).mT.reshape(stock.shape)
