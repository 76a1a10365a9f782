"""Where a backbone can be tapped.

The Swin Transformers of mmdet, mmseg and mmpretrain are three classes with
the same parts under the same names. This file is the only one that knows
those names. Anatomy is found by the parts, not by the class, so a subclass
works and a backbone without the parts is refused by name.
"""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Block:
    """One transformer block.

    Attributes:
        module: The block.
        width: Width of its tokens.
        branches: Name of a residual branch -> the module that applies
            stochastic depth to it. A forward pre-hook there sees the
            branch before stochastic depth, a forward hook after it.
        norms: Name of a residual branch -> the norm it starts with, which
            reads the residual stream.
        windows: The attention in shifted windows, ``(tokens, size) ->
            tokens``, with ``window_size`` and ``shift_size``.
        attention: The attention inside a window, ``(tokens, mask) ->
            tokens``, with ``qkv``, its fused projection.
        mlp: The layers of the MLP, without its norm and residual.
    """

    module: nn.Module
    width: int
    branches: dict[str, nn.Module]
    norms: dict[str, nn.Module]
    windows: nn.Module
    attention: nn.Module
    mlp: nn.Sequential


@dataclass(frozen=True)
class Stage:
    """One stage of a hierarchical backbone.

    Attributes:
        blocks: Its blocks, in order.
        downsample: The patch merging behind it, ``(tokens, size) ->
            (tokens, size)``; None behind the last stage.
        norm: Name of the output norm, which reads the stage's tokens before
            the patch merging; None where the stage is no output.
    """

    blocks: list[Block]
    downsample: nn.Module | None
    norm: str | None


def swin_stages(backbone: nn.Module, needed_by: str) -> list[Stage]:
    """Return the stages of a Swin Transformer.

    Args:
        backbone: A Swin of mmdet, mmseg or mmpretrain.
        needed_by: The method that asks, for the error.

    Raises:
        TypeError: If the backbone has no such parts.
    """
    try:
        return [
            Stage(
                blocks=[_swin_block(block) for block in stage.blocks],
                downsample=stage.downsample,
                norm=f'norm{i}' if i in backbone.out_indices else None,
            )
            for i, stage in enumerate(backbone.stages)
        ]
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f'{needed_by} cannot be attached to {type(backbone).__name__}: '
            f'{error}. It needs a Swin Transformer as mmdet, mmseg and '
            'mmpretrain build it: stages[i].blocks[j] with norm1, '
            'attn.w_msa.qkv, attn.drop, norm2, ffn.layers and '
            'ffn.dropout_layer'
        ) from None


def _swin_block(block: nn.Module) -> Block:
    return Block(
        module=block,
        width=block.attn.w_msa.qkv.in_features,
        branches={'attn': block.attn.drop, 'ffn': block.ffn.dropout_layer},
        norms={'attn': block.norm1, 'ffn': block.norm2},
        windows=block.attn,
        attention=block.attn.w_msa,
        mlp=block.ffn.layers,
    )
