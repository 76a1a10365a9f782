"""Where a backbone can be tapped.

The Swin Transformers of mmdet, mmseg and mmpretrain are three classes with
the same parts under the same names; the Vision Transformer of mmpretrain has
one stage. This file is the only one that knows those names. Anatomy is found
by the parts, not by the class, so a subclass works and a backbone without
the parts is refused by name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import nn

# Where the frameworks keep the class WindowMSA.
_WINDOW_ATTENTIONS = {
    'mmdet.models.backbones.swin',
    'mmseg.models.backbones.swin',
    'mmpretrain.models.utils.attention',
}


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
        attention: The attention (of a Swin: inside a window, ``(tokens,
            mask) -> tokens``), with ``qkv``, its fused projection, and
            ``proj``.
        feedforward: The module that applies the MLP and its residual.
        mlp: The layers of the MLP, without its norm and residual.
    """

    module: nn.Module
    width: int
    branches: dict[str, nn.Module]
    norms: dict[str, nn.Module]
    attention: nn.Module
    feedforward: nn.Module
    mlp: nn.Sequential

    @property
    def linears(self) -> dict[str, dict[str, nn.Linear]]:
        """Name of a residual branch -> name -> linear layer, in order.

        Raises:
            TypeError: If the MLP is not one of two layers.
        """
        mlp = [m for m in self.mlp.modules() if isinstance(m, nn.Linear)]
        if len(mlp) != 2:
            raise TypeError(
                'the MLP of a block must have two linear layers, found '
                f'{len(mlp)} in {type(self.module).__name__}'
            )
        return {
            'attn': {'qkv': self.attention.qkv, 'proj': self.attention.proj},
            'ffn': dict(zip(('fc1', 'fc2'), mlp, strict=True)),
        }


@dataclass(frozen=True)
class Stage:
    """One stage of a hierarchical backbone, or a whole ViT.

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


def transformer_stages(backbone: nn.Module, needed_by: str) -> list[Stage]:
    """Return the stages of a Swin, or the one stage of a ViT.

    What no output depends on is left out: a tuner has nothing to do there.

    Args:
        backbone: A Swin of mmdet, mmseg or mmpretrain, or a ViT of
            mmpretrain.
        needed_by: The method that asks, for the error.

    Raises:
        TypeError: If the backbone has no such parts.
    """
    if is_vit(backbone):
        return [vit_stage(backbone, needed_by)]
    stages = swin_stages(backbone, needed_by)
    last = max((i for i, s in enumerate(stages) if s.norm), default=0)
    stages = stages[: last + 1]
    if not getattr(backbone, 'out_after_downsample', False):
        stages[-1] = replace(stages[-1], downsample=None)
    return stages


def beyond_outputs(backbone: nn.Module) -> set[str]:
    """Return the names of the parameters that no output depends on.

    Stock backbones build all their stages, also those behind the last of
    ``out_indices``. Of a backbone of unknown anatomy nothing is returned.
    """
    try:
        stages = transformer_stages(backbone, needed_by='')
    except TypeError:
        return set()
    parts = [block.module for stage in stages for block in stage.blocks]
    parts += [stage.downsample for stage in stages if stage.downsample]
    reached = {id(p) for part in parts for p in part.parameters()}
    rows = ('stages.', 'layers.')
    if is_vit(backbone) and stages[0].norm is None:
        rows += ('ln1.',)
    return {
        name
        for name, parameter in backbone.named_parameters()
        if name.startswith(rows) and id(parameter) not in reached
    }


def is_vit(backbone: nn.Module) -> bool:
    """Whether the blocks stand in one row, as a ViT's do."""
    return hasattr(backbone, 'layers') and not hasattr(backbone, 'stages')


def swin_stages(backbone: nn.Module, needed_by: str) -> list[Stage]:
    """Return the stages of a Swin Transformer.

    Args:
        backbone: A Swin of mmdet, mmseg or mmpretrain.
        needed_by: The method that asks, for the error.

    Raises:
        TypeError: If the backbone has no such parts.
    """
    with _refusing(
        backbone,
        needed_by,
        'a Swin Transformer as mmdet, mmseg and mmpretrain build it: '
        'stages[i].blocks[j] with norm1, attn.w_msa.qkv and its '
        'relative_position_bias_table, attn.drop, norm2, ffn.layers and '
        'ffn.dropout_layer',
    ):
        return [
            Stage(
                blocks=[_swin_block(block) for block in stage.blocks],
                downsample=stage.downsample,
                norm=f'norm{i}' if i in backbone.out_indices else None,
            )
            for i, stage in enumerate(backbone.stages)
        ]


def vit_stage(backbone: nn.Module, needed_by: str) -> Stage:
    """Return the layers of a ViT down to the last that is an output.

    Args:
        backbone: A VisionTransformer of mmpretrain.
        needed_by: The method that asks, for the error.

    Raises:
        TypeError: If the backbone has no such parts.
    """
    with _refusing(
        backbone,
        needed_by,
        'a VisionTransformer as mmpretrain builds it: layers[i] with ln1, '
        'attn.qkv, attn.proj, attn.out_drop, ln2, ffn.layers and '
        'ffn.dropout_layer',
    ):
        last = max(backbone.out_indices)
        whole = last == len(backbone.layers) - 1
        return Stage(
            blocks=[_vit_block(b) for b in backbone.layers[: last + 1]],
            downsample=None,
            norm='ln1' if whole and backbone.final_norm else None,
        )


def is_window_attention(attention: nn.Module) -> bool:
    """Whether it computes what the Swins' own attention in a window does.

    By the code of its ``forward``: a subclass may compute something else.
    """
    forward = type(attention).forward
    return (
        forward.__module__ in _WINDOW_ATTENTIONS
        and forward.__qualname__ == 'WindowMSA.forward'
    )


@contextmanager
def _refusing(
    backbone: nn.Module, needed_by: str, needs: str
) -> Iterator[None]:
    """Turn a missing part into a sentence."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f'{needed_by} cannot be attached to {type(backbone).__name__}: '
            f'{error}. It needs {needs}'
        ) from None


def _swin_block(block: nn.Module) -> Block:
    return Block(
        module=block,
        width=block.attn.w_msa.qkv.in_features,
        branches={'attn': block.attn.drop, 'ffn': block.ffn.dropout_layer},
        norms={'attn': block.norm1, 'ffn': block.norm2},
        attention=_v1_attention(block.attn.w_msa),
        feedforward=block.ffn,
        mlp=block.ffn.layers,
    )


def _v1_attention(attention: nn.Module) -> nn.Module:
    # Swin Transformer V2 has none. It norms behind a branch, and merges
    # patches before a stage: none of this file holds for it.
    if not hasattr(attention, 'relative_position_bias_table'):
        raise TypeError(
            f'{type(attention).__name__} has no relative_position_bias_table'
        )
    return attention


def _vit_block(block: nn.Module) -> Block:
    return Block(
        module=block,
        width=block.attn.qkv.in_features,
        branches={
            'attn': block.attn.out_drop,
            'ffn': block.ffn.dropout_layer,
        },
        norms={'attn': block.ln1, 'ffn': block.ln2},
        attention=block.attn,
        feedforward=block.ffn,
        mlp=block.ffn.layers,
    )
