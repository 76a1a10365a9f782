"""LoRA in a frozen trunk, a baseline of E3VA and RLRR."""

import re
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..families import Block, Family, Layer
from ..nn import lora
from ..nn.kernels.autograd import traced
from ..registry import TUNERS
from .blocks import BlockTuner
from .folding import Change, compute_folded, plain_kind
from .placement import check_sites, ranks_of


@TUNERS.register_module()
class LoRA(BlockTuner):
    """Low-rank updates of the query and value projections of every block.

    Also of other linear layers, convolutions and attentions of PyTorch, by
    ``sites``. A backbone that has none of the sites, as a ResNet has no q and
    v, gets updates of all its linear layers and convolutions.

    The updates are ``tuner.stages[stage][block]`` where only a fused
    query-key-value projection is updated, else
    ``tuner.stages[stage][block][name of the layer]``.

    Args:
        rank: Rank of the update of each site; one number, or one for each
            stage.
        alpha: Scale of the update times ``rank``. Defaults to ``rank``;
            ``alpha=1`` is what the E3VA authors' later public code does.
        sites: Some of ``'q'``, ``'k'``, ``'v'``, and names of linear layers:
            ``'proj'``, ``'fc1'``, ``'fc2'`` in a transformer, ``'conv1'`` and
            so on in a ResNet, the last part of its path in a decoder or head.
            What is none of these is a regular expression that matches names
            of weights from the start, e.g. ``'layers.*cross_attn'``.
        layers: Indices of the blocks that are updated, counted through all
            stages from 0; negative ones from the end. Defaults to all.

    Raises:
        ValueError: If the backbone has no such sites or blocks, or the rank
            does not fit one.
    """

    needs = ('linears',)

    def __init__(
        self,
        rank: int | Sequence[int] = 64,
        alpha: float | None = None,
        sites: Sequence[str] = ('q', 'v'),
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(layers)
        self.rank = rank
        self.alpha = alpha
        self.sites = sites

    def build(self, trunk: Family) -> None:
        self._check_sites(trunk)
        self._ranks = ranks_of(self.rank, trunk, 'LoRA')
        chosen = [self._chosen(block) for block in trunk.blocks]
        self._everywhere = not any(chosen)
        super().build(trunk)
        if not self.changes:
            raise ValueError(
                f'LoRA has layers={self.layers}, and none of these '
                f'blocks has one of sites={self.sites}: choose others'
            )

    def adapt(self, block: Block, stage: int) -> nn.Module:
        layers = _layers(block)
        updates = nn.ModuleDict()
        for name in layers if self._everywhere else self._chosen(block):
            layer = layers[name]
            try:
                updates[name] = self._make_update(layer, self._ranks[stage])
            except ValueError as error:
                raise ValueError(
                    f'{error}. It is {layer.name}: lower the rank, or choose '
                    'sites without it'
                ) from None
            self._update(layer, updates[name])
        return updates['qkv'] if updates.keys() == {'qkv'} else updates

    def _make_update(self, layer: Layer, rank: int) -> nn.Module:
        if layer.parts == 1:
            return lora.LayerUpdate(layer.shape, rank, self.alpha)
        parts = tuple(site for site in self.sites if site in lora.PARTS)
        if self._named(layer):
            parts = lora.PARTS
        return lora.LoRAUpdate(layer.shape[1], rank, self.alpha, parts)

    def _check_sites(self, trunk: Family) -> None:
        """Check the sites, and note which of them are patterns."""
        layers = [la for b in trunk.blocks for la in _layers(b).items()]
        names = {_last(name) for name, _ in layers} - {'qkv'} | {*lora.PARTS}
        asked = () if isinstance(self.sites, str) else self.sites
        self._patterns = {
            site
            for site in {*asked} - names
            if any(_matches(site, layer) for _, layer in layers)
        }
        known = [*sorted(names), *sorted(self._patterns)]
        self.sites = check_sites(self.sites, 'LoRA', known)

    def _named(self, layer: Layer) -> bool:
        """Whether a site is a pattern of the name of its weight."""
        return any(_matches(pattern, layer) for pattern in self._patterns)

    def _chosen(self, block: Block) -> list[str]:
        """Return the names of the layers that the sites are in."""
        sites = {*self.sites}
        if sites & {*lora.PARTS}:
            sites.add('qkv')
        return [
            name
            for name, layer in _layers(block).items()
            if _last(name) in sites or self._named(layer)
        ]

    def _update(self, layer: Layer, update: nn.Module) -> None:
        module = layer.module
        plain = plain_kind(module) is nn.Linear or (
            plain_kind(module) is nn.Conv2d
            and module.groups == 1
            and module.padding_mode == 'zeros'
        )
        if layer.called and plain:
            layer.module.register_forward_hook(partial(_updated, update))
        else:
            compute_folded(layer, update.fold)
        self.changes.append(Change(layer, update.fold, adds=True))

    def updates(self) -> dict[str, lora.LoRAUpdate]:
        """Return path of each fused projection -> its update.

        Raises:
            ValueError: If something else is updated, or a projection that
                is no module of its own.
        """
        for change in self.changes:
            fused = isinstance(change.fold.__self__, lora.LoRAUpdate)
            if not (fused and change.layer.called):
                raise ValueError(
                    f'{change.layer.name} is updated, which is not that of '
                    'a module for fused query, key and value'
                )
        return {c.layer.path: c.fold.__self__ for c in self.changes}


def _layers(block: Block) -> dict[str, Layer]:
    return {n: la for site in block.linears.values() for n, la in site.items()}


def _last(name: str) -> str:
    """Return a name without the path that it has outside of trunks."""
    return name.rpartition('-')[2]


def _matches(pattern: str, layer: Layer) -> bool:
    try:
        return re.match(pattern, layer.name) is not None
    except re.error:
        return False


def _updated(
    update: nn.Module, module: nn.Module, args: tuple[Tensor], out: Tensor
) -> Tensor:
    if isinstance(module, nn.Conv2d):
        return update(args[0], out, conv=module)
    # Whoever else has a hook here may have kept the output.
    alone = len(module._forward_hooks) == 1 and not _has_any_global_hook()
    in_place = alone and not traced() and not out._is_view()
    return update(args[0], out, in_place=in_place)
