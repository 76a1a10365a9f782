"""E3VA: a side highway that trains without the trunk (ACM MM 2024)."""

import copy
from functools import partial

from torch import Tensor, nn

from ..nn import e3va
from ..registry import TUNERS
from .anatomy import Stage, swin_stages
from .base import CHILD, CannotMerge, Tuner
from .highway import Highway

_OPTIONS = {
    'structure': ('parallel', 'stacked'),
    'reduction': ('inherited', 'trainable'),
    'adapter': ('low_rank', 'standard'),
    'fpn_input': ('highway', 'sum'),
}


@TUNERS.register_module()
class E3VA(Tuner):
    """Adapters on a highway beside the frozen trunk.

    The paper's E3VA, E3VA+ and E3VA++ have rank 8, 16 and 32. The highway
    enters FPN or UPerNet in place of the trunk's stage outputs, through the
    output norms, which train. Stages behind the last of ``out_indices`` get
    no adapters: nothing would train them.

    With ``stochastic_trunk`` the adapters read a branch after stochastic
    depth, so the highway drops what the trunk drops.

    Args:
        rank: Rank of each of an adapter's two branches.
        structure: ``'parallel'`` or ``'stacked'`` (table 5).
        reduction: Patch merging of the highway: ``'inherited'`` shares the
            trunk's frozen layers, ``'trainable'`` trains copies of them,
            made from the weights the trunk is loaded with (table 6).
        train_fpn_norms: Train the output norms (table 6).
        adapter: ``'low_rank'`` or ``'standard'``, a dense one (table 5).
        mid_channels: Hidden width. Defaults to half of each block's width,
            and to 32 for the standard adapter.
        fpn_input: ``'highway'`` feeds norm(e) to the neck, ``'sum'``
            norm(l + e).

    Raises:
        ValueError: If an option is unknown.
    """

    # The hooks keep a forward pass's state, and the trunk keeps nothing.
    repeatable = False

    def __init__(
        self,
        rank: int = 8,
        structure: str = 'parallel',
        reduction: str = 'inherited',
        train_fpn_norms: bool = True,
        adapter: str = 'low_rank',
        mid_channels: int | None = None,
        fpn_input: str = 'highway',
    ) -> None:
        super().__init__()
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

    def build(self, backbone: nn.Module) -> None:
        self.highway = self.make_highway(backbone)
        if self.highway.merging is not None:
            backbone._register_load_state_dict_pre_hook(self._inherit)
        backbone.register_forward_pre_hook(self._clear)
        # Also when the forward fails.
        backbone.register_forward_hook(self._clear, always_call=True)
        for i, stage in enumerate(self.stages_of(backbone)):
            if stage.norm is not None:
                norm = backbone.get_submodule(stage.norm)
                norm.register_forward_pre_hook(partial(self._join, i))

    def make_highway(self, backbone: nn.Module) -> Highway:
        """Return a new highway beside ``backbone``, hooked to it."""
        stages = self.stages_of(backbone)
        merging = None
        if self.reduction == 'trainable':
            # Before the hooks, which a deep copy would copy too.
            merging = nn.ModuleList(
                copy.deepcopy(stage.downsample).requires_grad_()
                for stage in stages[:-1]
            )
            for copied in merging:
                # Those of other highways beside the same trunk.
                copied._forward_hooks.clear()
        stacked = self.structure == 'stacked'
        return Highway(stages, self._make_adapter, stacked, merging)

    def trained_stock(self, backbone: nn.Module) -> set[str]:
        if not self.train_fpn_norms:
            return set()
        return {
            f'{stage.norm}.{name}'
            for stage in self.stages_of(backbone)
            if stage.norm is not None
            for name, _ in backbone.get_submodule(
                stage.norm
            ).named_parameters()
        }

    def merge(self) -> dict[str, Tensor]:
        """Refuse.

        Raises:
            CannotMerge: Always: the highway is another path with GELUs.
        """
        raise CannotMerge(
            'E3VA cannot be merged into a stock checkpoint, because its '
            'highway is a second path beside the trunk with a GELU in each '
            'adapter. Ship the tuned model with mmlowrank'
        )

    def init_backbone_weights(self) -> None:
        super().init_backbone_weights()
        if self.highway.merging is not None:
            stages = self.stages_of(self.backbone)
            for ours, stage in zip(
                self.highway.merging, stages[:-1], strict=True
            ):
                ours.load_state_dict(stage.downsample.state_dict())

    def stages_of(self, backbone: nn.Module) -> list[Stage]:
        """Return the stages down to the last that is an output.

        Raises:
            TypeError: If the backbone has other parts or another order.
            ValueError: If ``out_indices`` is empty or names no stage.
        """
        if getattr(backbone, 'out_after_downsample', False):
            raise TypeError(
                'E3VA cannot be attached where out_after_downsample=True: '
                'the output norms must read a stage before its merging'
            )
        stages = swin_stages(backbone, needed_by=type(self).__name__)
        known, given = range(len(stages)), backbone.out_indices
        if not given or not set(given) <= set(known):
            raise ValueError(
                'E3VA trains what leaves the output stages, but out_indices='
                f'{given}. Set it to one or more of '
                + ', '.join(map(str, known))
            )
        last = max(i for i, stage in enumerate(stages) if stage.norm)
        return stages[: last + 1]

    def _make_adapter(self, width: int) -> nn.Module:
        if self.adapter == 'standard':
            return e3va.StandardAdapter(width, self.mid_channels or 32)
        return e3va.LowRankAdapter(width, self.rank, self.mid_channels)

    def _clear(self, *_: object) -> None:
        self.highway.clear()

    def _join(
        self, i: int, module: nn.Module, args: tuple[Tensor]
    ) -> tuple[Tensor]:
        e = self.highway.outputs[i]
        return (args[0] + e if self.fpn_input == 'sum' else e,)

    def _inherit(
        self, state_dict: dict[str, Tensor], prefix: str, *_: object
    ) -> None:
        """Let a checkpoint of the trunk fill the copied mergings too."""
        if CHILD not in self.backbone._modules:
            return  # init_backbone_weights copies them itself
        for name, parameter in self.highway.merging.named_parameters():
            index, _, rest = name.partition('.')
            ours = f'{prefix}{CHILD}.highway.merging.{name}'
            stock = f'{prefix}stages.{index}.downsample.{rest}'
            if ours not in state_dict and stock in state_dict:
                state_dict[ours] = state_dict[stock].to(parameter.device)
