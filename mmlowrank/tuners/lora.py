"""LoRA in a frozen trunk, a baseline of E3VA and RLRR."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..families import Block, Family, Layer
from ..nn import lora
from ..registry import TUNERS
from .base import BlockTuner
from .folding import Change, compute_folded, plain_kind
from .placement import check_sites, ranks_of


@TUNERS.register_module()
class LoRA(BlockTuner):
    """Low-rank updates of the query and value projections of every block.

    Also of other linear layers and of convolutions, by ``sites``. A
    backbone that has none of the sites, as a ResNet has no q and v, gets
    updates of all its linear layers and convolutions.

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
            so on in a ResNet.
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
        known = {*lora.PARTS, *(n for b in trunk.blocks for n in _layers(b))}
        known.discard('qkv')
        self.sites = check_sites(self.sites, 'LoRA', sorted(known))
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
        rank, alpha = self._ranks[stage], self.alpha
        parts = tuple(site for site in self.sites if site in lora.PARTS)
        updates = nn.ModuleDict()
        for name in layers if self._everywhere else self._chosen(block):
            layer = layers[name]
            if name == 'qkv':
                updates[name] = lora.LoRAUpdate(
                    layer.shape[1], rank, alpha, parts
                )
            else:
                updates[name] = lora.LayerUpdate(layer.shape, rank, alpha)
            self._update(layer, updates[name])
        return updates['qkv'] if updates.keys() == {'qkv'} else updates

    def _chosen(self, block: Block) -> list[str]:
        """Return the names of the layers that the sites are in."""
        sites = {*self.sites}
        if sites & {*lora.PARTS}:
            sites.add('qkv')
        return [name for name in _layers(block) if name in sites]

    def _update(self, layer: Layer, update: nn.Module) -> None:
        plain = plain_kind(layer.module) in (nn.Linear, nn.Conv2d)
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


def _updated(
    update: nn.Module, module: nn.Module, args: tuple[Tensor], out: Tensor
) -> Tensor:
    if isinstance(module, nn.Conv2d):
        return update(args[0], out, module)
    return update(args[0], out)
