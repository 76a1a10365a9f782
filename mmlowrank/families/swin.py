"""Swin Transformer of mmdet, mmseg and mmpretrain.

Three classes with the same parts under the same names:
``stages[i].blocks[j]``, patch merging behind a stage, output norms
``norm{i}`` that nothing else reads.
"""

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from ..nn.kernels import attention
from ..registry import FAMILIES
from .anatomy import (
    MLP,
    Block,
    Layer,
    Merging,
    Norm,
    Output,
    Stage,
)
from .base import Family, last_of
from .rewriting import (
    ATTENTIONS,
    computing,
    drops,
    rewrite,
    runs,
    watched,
)

# Where the frameworks keep the class WindowMSA.
_WINDOW_ATTENTIONS = {
    'mmdet.models.backbones.swin',
    'mmseg.models.backbones.swin',
    'mmpretrain.models.utils.attention',
}


@FAMILIES.register_module()
class Swin(Family):
    """Swin Transformer: windows, patch merging, four output norms."""

    title = 'Swin Transformer'
    rows = ('stages.',)
    hierarchical = True

    lacks: ClassVar = {'prompts': 'its windows have places for patches only'}

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        if getattr(backbone, 'out_after_downsample', False):
            self.lacks['outputs'] = (
                'with out_after_downsample=True the output norms read a '
                'stage behind its merging'
            )

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = backbone.stages[0].blocks[0]
        return (
            hasattr(block.attn.w_msa, 'relative_position_bias_table')
            and hasattr(block.attn.w_msa, 'qkv')
            and hasattr(block.ffn, 'dropout_layer')
            and hasattr(block, 'norm2')
        )

    def build_stages(self) -> list[Stage]:
        backbone = self.backbone
        last = last_of(backbone.out_indices, len(backbone.stages))
        stages = [
            Stage([self.block(b) for b in s.blocks], self._merging(s))
            for s in backbone.stages[: last + 1]
        ]
        if not getattr(backbone, 'out_after_downsample', False):
            stages[-1] = replace(stages[-1], merging=None)
        return stages

    @property
    def outputs(self) -> list[Output]:
        known, given = range(len(self.backbone.stages)), self.backbone
        if not given.out_indices or not {*given.out_indices} <= {*known}:
            raise ValueError(
                f'{type(given).__name__} has out_indices='
                f'{given.out_indices}, which name no output stages. Set it '
                'to one or more of ' + ', '.join(map(str, known))
            )
        return [
            Output((i, len(stage.blocks) - 1), f'norm{i}')
            for i, stage in enumerate(self.stages)
            if i in given.out_indices
        ]

    @property
    def output_norms(self) -> list[str]:
        given = self.backbone.out_indices
        return [f'norm{i}' for i in range(len(self.stages)) if i in given]

    @property
    def embedding(self) -> tuple[Layer | None, Norm | None]:
        embedding = self.backbone.patch_embed
        norm = embedding.norm
        return (
            self.layer(embedding.projection),
            norm and self.norm(norm),
        )

    def block(self, block: nn.Module) -> Block:
        """Return the parts of one block."""
        own, ffn = block.attn.w_msa, block.ffn
        return self.block_of(
            block,
            starts=dict(attn=block.norm1, ffn=block.norm2),
            ends=dict(attn=block.attn.drop, ffn=ffn.dropout_layer),
            linears=dict(attn=self.attention(own), ffn=self.ffn(ffn)),
            mlp=MLP(block.norm2, ffn.layers, ffn),
            sized=block.attn,
        )

    def _merging(self, stage: nn.Module) -> Merging | None:
        merging = stage.downsample
        return merging and Merging(
            merging,
            run_merging,
            norm=self.norm(merging.norm),
            reduction=self.layer(merging.reduction),
        )

    def rewrite_block(self, block: Block) -> None:
        super().rewrite_block(block)
        own = block.module.attn.w_msa
        if _is_window_attention(own):
            fused = ATTENTIONS[self.attention_kind]
            rewrite(own, _attention, fused=fused)


def run_merging(module: nn.Module, tokens: Tensor, args: tuple) -> Tensor:
    """Merge patches as ``module(tokens, size)`` does, past its hooks."""
    return module.forward(tokens, *args[1:])[0]


def _is_window_attention(own: nn.Module) -> bool:
    """Whether it computes what the Swins' own attention in a window does.

    By the code of its ``forward``: a subclass may compute something else.
    """
    forward = type(own).forward
    return (
        forward.__module__ in _WINDOW_ATTENTIONS
        and forward.__qualname__ == 'WindowMSA.forward'
    )


def _attention(
    own: nn.Module,
    x: Tensor,
    *args: Any,
    fused: bool | None = None,
    **kwargs: Any,
) -> Tensor:
    """Compute a window attention; ``(tokens, mask)`` like the stock one."""
    if computing() and _is_window_attention(own):
        called = (own.qkv, own.proj)
        bypassed = [m for m in own.children() if m not in called]
        known = all(
            runs(m, nn.Softmax) or runs(m, nn.Dropout) for m in bypassed
        )
        if known and not drops(*bypassed) and not any(map(watched, bypassed)):
            return _lean_attention(own, fused, x, *args, **kwargs)
    return type(own).forward(own, x, *args, **kwargs)


def _lean_attention(
    own: nn.Module,
    fused: bool | None,
    x: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    tokens = x.shape[1]
    index = own.relative_position_index.flatten()
    bias = own.relative_position_bias_table[index]
    bias = bias.view(tokens, tokens, -1).permute(2, 0, 1).contiguous()
    out = attention.window_attention(
        own.qkv(x), bias, mask, own.num_heads, own.scale, fused
    )
    return own.proj(out)
