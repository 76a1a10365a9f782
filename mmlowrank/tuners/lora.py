"""LoRA in a frozen trunk, a baseline of E3VA and RLRR."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..families import Block, Family, Layer
from ..nn import lora
from ..registry import TUNERS
from .base import BlockTuner
from .folding import Change, compute_folded, plain_kind


@TUNERS.register_module()
class LoRA(BlockTuner):
    """Low-rank updates of the query and value projections of every block.

    Also of other linear layers and of convolutions, by ``targets``. A
    backbone that has none of the targets, as a ResNet has no q and v, gets
    updates of all its linear layers and convolutions.

    The updates are ``tuner.stages[stage][block]`` where only a fused
    query-key-value projection is updated, else
    ``tuner.stages[stage][block][name of the layer]``.

    Args:
        rank: Rank of the update of each target.
        alpha: Scale of the update times ``rank``. Defaults to ``rank``;
            ``alpha=1`` is what the E3VA authors' later public code does.
        targets: Some of ``'q'``, ``'k'``, ``'v'``, and names of layers:
            ``'proj'``, ``'fc1'``, ``'fc2'`` in a transformer, ``'conv1'`` and
            so on in a ResNet.

    Raises:
        ValueError: If the backbone has no such layers, or the rank does not
            fit one.
    """

    needs = ('linears',)

    def __init__(
        self,
        rank: int = 64,
        alpha: float | None = None,
        targets: Sequence[str] = ('q', 'v'),
    ) -> None:
        super().__init__()
        self.options = dict(rank=rank, alpha=alpha, targets=targets)

    def build(self, trunk: Family) -> None:
        known = {*lora.PARTS, *(n for b in trunk.blocks for n in _layers(b))}
        known.discard('qkv')
        targets = self.options['targets']
        if not targets or not {*targets} <= known:
            raise ValueError(
                f'LoRA targets must be some of {tuple(sorted(known))}, got '
                f'{targets}'
            )
        chosen = [self._chosen(block) for block in trunk.blocks]
        self._everywhere = not any(chosen)
        super().build(trunk)

    def adapt(self, block: Block) -> nn.Module:
        layers = _layers(block)
        rank, alpha, targets = self.options.values()
        parts = tuple(t for t in targets if t in lora.PARTS)
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
        """Return the names of the layers that are targets."""
        targets = {*self.options['targets']}
        if targets & {*lora.PARTS}:
            targets.add('qkv')
        return [name for name in _layers(block) if name in targets]

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
