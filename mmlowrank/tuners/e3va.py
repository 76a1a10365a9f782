"""E3VA: a side highway that trains without the trunk (ACM MM 2024)."""

import copy
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..families import Family, family_of
from ..nn import CodedAdapter
from ..registry import TUNERS
from .base import CHILD, Tuner
from .highway import Highway
from .losses import orthogonality_loss
from .patterns import below
from .placement import (
    SITES,
    check_sites,
    chosen_layers,
    ranks_of,
    sites_in,
)
from .swapped import Swapped

_OPTIONS = {
    'structure': ('parallel', 'stacked'),
    'reduction': ('inherited', 'trainable'),
    'adapter': tuple(CodedAdapter.known),
    'fpn_input': ('highway', 'sum'),
}


@TUNERS.register_module()
class E3VA(Tuner):
    """Adapters on a highway beside the frozen trunk.

    The paper's E3VA, E3VA+ and E3VA++ have rank 8, 16 and 32. The highway
    enters FPN or UPerNet in place of the trunk's stage outputs, through the
    output norms, which train; where a trunk returns tokens without a norm of
    their own, as those of a ViT's inner layers, the highway's take their
    place. Blocks behind the last of ``out_indices`` get no adapters: nothing
    would train them.

    With ``stochastic_trunk`` the adapters read a branch after stochastic
    depth, so the highway drops what the trunk drops.

    Args:
        rank: Rank of each of an adapter's two branches, or of CoLin's
            projections; one number, or one for each stage.
        structure: ``'parallel'`` or ``'stacked'`` (table 5).
        reduction: Patch merging of the highway: ``'inherited'`` shares the
            trunk's frozen layers, ``'trainable'`` trains copies of them,
            made from the weights the trunk is loaded with (table 6).
        train_fpn_norms: Train the output norms (table 6).
        adapter: ``'low_rank'`` or ``'standard'``, a dense one (table 5); or
            ``'mona'`` or ``'colin'``, whose convolutions see a tap as a map.
            They start as the identity and drop nothing here, as the
            paper's adapters.
        mid_channels: Hidden width. Defaults to half of each block's width,
            to 32 for the standard adapter, and to Mona's and CoLin's own.
        fpn_input: ``'highway'`` feeds norm(e) to the neck, ``'sum'``
            norm(l + e).
        orthogonality: Weight of the loss that keeps CoLin's factors near
            orthogonal. None here, where they start as the identity: the loss
            is largest at a factor of zeros, and pulls it from there.
        sites: ``'attn'``, ``'ffn'`` or both: the branches whose outputs are
            adapted. The highway adds the others as they are.
        layers: Indices of the blocks with adapters, counted through all
            stages from 0; negative ones from the end. Defaults to all.

    Raises:
        ValueError: If an option is unknown, or there is no such block.
    """

    needs = ('branches', 'outputs')
    cannot_merge = (
        'its highway is a second path beside the trunk with a GELU in each '
        'adapter'
    )
    # The hooks keep a forward pass's state, and the trunk keeps nothing.
    repeatable = False

    def __init__(
        self,
        rank: int | Sequence[int] = 8,
        structure: str = 'parallel',
        reduction: str = 'inherited',
        train_fpn_norms: bool = True,
        adapter: str = 'low_rank',
        mid_channels: int | None = None,
        fpn_input: str = 'highway',
        orthogonality: float = 0.0,
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.sites = check_sites(sites, 'E3VA', SITES)
        self.layers = layers
        self.structure = structure
        self.reduction = reduction
        self.adapter = adapter
        self.fpn_input = fpn_input
        for name, known in _OPTIONS.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f'E3VA {name} must be one of {known}, got '
                    f'{getattr(self, name)!r}'
                )
        self.rank = rank
        self.mid_channels = mid_channels
        self.train_fpn_norms = train_fpn_norms
        self.orthogonality = orthogonality
        if CodedAdapter.known[adapter].maps:
            self.needs = (*self.needs, 'maps')

    def build(self, trunk: Family) -> None:
        self.highway = self.make_highway(trunk)
        backbone = trunk.backbone
        if self.highway.merging is not None:
            backbone._register_load_state_dict_pre_hook(self._inherit)
        backbone.register_forward_pre_hook(self._clear)
        self._finish = [output.finish for output in trunk.outputs]
        if self.fpn_input == 'sum' and any(self._finish):
            raise TypeError(
                "E3VA fpn_input='sum' is for outputs with a norm of their "
                f'own, which not all of {type(backbone).__name__} have: '
                "leave it at 'highway'"
            )
        if self.structure == 'stacked' and any(
            block.closed for block in trunk.blocks
        ):
            raise TypeError(
                "E3VA structure='stacked' is not defined where blocks of "
                f'{type(backbone).__name__} end in a norm: leave it at '
                "'parallel'"
            )
        for position, output in enumerate(trunk.outputs):
            if output.norm is not None:
                norm = backbone.get_submodule(output.norm)
                norm.register_forward_pre_hook(partial(self._join, position))
        backbone.register_forward_hook(self._leave)
        # Also when the forward fails.
        backbone.register_forward_hook(self._clear, always_call=True)

    def make_highway(self, trunk: Family) -> Highway:
        """Return a new highway beside a trunk, hooked to it.

        Raises:
            TypeError: If there is no patch merging whose copies could train.
        """
        merging = None
        if self.reduction == 'trainable':
            stock = _mergings(trunk)
            if not stock:
                raise TypeError(
                    "E3VA reduction='trainable' trains copies of the patch "
                    f'merging, and {type(trunk.backbone).__name__} has none: '
                    "leave it at 'inherited'"
                )
            parts = [part for module in stock for part in module.modules()]
            if any(isinstance(part, Swapped) for part in parts):
                raise ValueError(
                    "E3VA reduction='trainable' trains copies of the patch "
                    'merging, which another tuner changes: leave it at '
                    "'inherited'"
                )
            # Before the hooks, which a deep copy would copy too.
            merging = nn.ModuleList(
                copy.deepcopy(module).requires_grad_() for module in stock
            )
            for copied in merging:
                # Those of other highways beside the same trunk.
                copied._forward_hooks.clear()
        stacked = self.structure == 'stacked'
        kind = CodedAdapter.known[self.adapter]
        ranks = ranks_of(self.rank, trunk, 'E3VA')
        chosen = chosen_layers(self.layers, trunk, 'E3VA')
        places = [
            sites_in(block, self.sites, 'E3VA') if i in chosen else []
            for i, block in enumerate(trunk.blocks)
        ]

        def make(width: int, stage: int) -> CodedAdapter:
            return kind.beside(width, ranks[stage], self.mid_channels)

        return Highway(trunk, make, places, kind.maps, stacked, merging)

    def losses(self) -> dict[str, Tensor]:
        return orthogonality_loss(self, self.orthogonality)

    def trained_stock(self, trunk: Family) -> list[str]:
        norms = [o.norm for o in trunk.outputs if o.norm is not None]
        return below(norms) if self.train_fpn_norms else []

    def follow_stock(self) -> None:
        if self.highway.merging is not None:
            stock = _mergings(family_of(self.backbone))
            for ours, module in zip(self.highway.merging, stock, strict=True):
                ours.load_state_dict(module.state_dict())

    def _clear(self, *_: object) -> None:
        self.highway.clear()

    def _join(
        self, position: int, module: nn.Module, args: tuple[Tensor]
    ) -> tuple[Tensor]:
        return (self._tokens(position),)

    def _tokens(self, position: int) -> Tensor:
        """Return what an output is made of, in place of the trunk's l."""
        e, stock = self.highway.outputs[position]
        return stock + e if self.fpn_input == 'sum' else e

    def _leave(
        self, module: nn.Module, args: tuple, outs: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """Put the highway where no norm of the outputs could take it."""
        if not any(self._finish):
            return outs
        return type(outs)(
            out if finish is None else finish(self._tokens(position), out)
            for position, (finish, out) in enumerate(
                zip(self._finish, outs, strict=True)
            )
        )

    def _inherit(
        self, state_dict: dict[str, Tensor], prefix: str, *_: object
    ) -> None:
        """Let a checkpoint of the trunk fill the copied mergings too."""
        if CHILD not in self.backbone._modules:
            return  # init_backbone_weights copies them itself
        trunk = family_of(self.backbone)
        paths = [trunk.path(module) for module in _mergings(trunk)]
        own = trunk.path(self)
        for name, parameter in self.highway.merging.named_parameters():
            index, _, rest = name.partition('.')
            ours = f'{prefix}{own}.highway.merging.{name}'
            stock = f'{prefix}{paths[int(index)]}.{rest}'
            if ours not in state_dict and stock in state_dict:
                state_dict[ours] = state_dict[stock].to(parameter.device)


def _mergings(trunk: Family) -> list[nn.Module]:
    return [s.merging.module for s in trunk.stages if s.merging is not None]
