"""RLRR in a frozen trunk (CVPR 2024, sections 3.3 and 4)."""

from collections.abc import Sequence

from torch import nn

from ..families import Block, Family
from ..registry import TUNERS
from .placement import check_sites
from .swapping import SwappingTuner

_SITES = ('patch', 'attn', 'ffn', 'norm', 'merging')


@TUNERS.register_module()
class RLRR(SwappingTuner):
    """Rescale the linear layers of every block; scale and shift its norms.

    Where the authors' code goes beyond the paper, this follows the code:
    an SSF behind a ViT's patch projection and behind the last norm, and the
    ``reduction`` of Swin's patch merging is rescaled (its norm is not).

    The added tensors are ``tuner.blocks.N.{qkv,proj,fc1,fc2}.{scale_left,
    scale_right,shift}``, ``tuner.blocks.N.{norm_attn,norm_ffn}.{scale,
    shift}``, ``tuner.reductions.I``, ``tuner.patch`` and ``tuner.output``.

    Args:
        init: ``'paper'`` starts as the authors' code, a few per cent away
            from the pre-trained model; ``'identity'`` starts as the
            pre-trained model.
        sides: Which scales there are: ``('left', 'right')`` or one (table 6
            of the paper).
        residual: Whether the frozen weight is added (table 6).
        sites: What is adapted, some of ``'patch'`` (a ViT's embedding),
            ``'attn'``, ``'ffn'``, ``'norm'`` (MHA, FFN and LayerNorm in
            figure 2, output norms included) and ``'merging'``. Of a ResNet
            the 1 x 1 convolutions are, in any case.
        layers: Indices of the adapted blocks, counted through all stages
            from 0; negative ones from the end (figure 2). Defaults to all.
        qkv_groups: Left scales of a fused qkv projection. Defaults to what
            the paper's parameter counts need: 3 in a ViT (one each for q, k
            and v), 1 in a Swin.
        branch_dropout: Rate of the elementwise dropout on the output of the
            last block's branches, rising linearly from 0 in the first. The
            authors' ViT code has it under the name of drop path.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    def __init__(
        self,
        init: str = 'paper',
        sides: tuple[str, ...] = ('left', 'right'),
        residual: bool = True,
        sites: Sequence[str] = _SITES,
        layers: Sequence[int] | None = None,
        qkv_groups: int | None = None,
        branch_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sites = check_sites(sites, 'RLRR', _SITES)
        if not 0 <= branch_dropout < 1:
            raise ValueError(
                'RLRR branch_dropout must be at least 0 and below 1, got '
                f'{branch_dropout}'
            )
        self.init = init
        self.tune_norms = 'norm' in sites
        self.layers = layers
        self.qkv_groups = qkv_groups
        self.branch_dropout = branch_dropout
        self.options = dict(sides=tuple(sides), residual=residual, init=init)

    def build(self, trunk: Family) -> None:
        if self.qkv_groups is None:
            self.qkv_groups = 1 if trunk.hierarchical else 3
        self.blocks = self.adapt_blocks(trunk)
        mergings = [stage.merging for stage in trunk.stages if stage.merging]
        self.reductions = nn.ModuleList(
            self.rescale(merging.reduction, merging.norm, **self.options)
            for merging in mergings
            if merging.reduction and merging.reduction.is_matrix
            if 'merging' in self.sites
        )
        if not trunk.hierarchical and 'patch' in self.sites:
            projection, _ = trunk.embedding
            if projection is not None:
                self.patch = self.scale_patch(projection)
        self.scale_output(trunk)
        if self.branch_dropout:
            self._drop_branches(trunk.blocks)

    def adapt(self, block: Block) -> nn.ModuleDict:
        parts = nn.ModuleDict()
        for site, layers in block.linears.items():
            if site in _SITES and site not in self.sites:
                continue
            for name, layer in layers.items():
                if layer.is_matrix:
                    groups = self.qkv_groups if layer.parts > 1 else 1
                    parts[name] = self.rescale(
                        layer, groups=groups, **self.options
                    )
        if self.tune_norms:
            for site, norm in block.norms.items():
                parts[f'norm_{site}'] = self.scale_shift(norm)
        return parts

    def _drop_branches(self, blocks: list[Block]) -> None:
        for i, block in enumerate(blocks):
            rate = self.branch_dropout * i / max(len(blocks) - 1, 1)
            dropout = nn.Dropout(rate)
            self.blocks[i]['dropout'] = dropout
            for branch in block.branches.values():
                branch.end.change(dropout)
