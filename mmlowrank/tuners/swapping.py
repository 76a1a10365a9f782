"""Base of the tuners that change what a stock layer computes, in its place.

Where the layer is of the plain kind, its class is swapped for one that
computes with what is added; elsewhere the stock code runs, behind a hook or
with changed weights.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from mmengine.logging import print_log
from torch import nn

from ..families import Block, Family, Layer, Norm
from ..nn.kernels.autograd import traced
from ..nn.rlrr import Rescaling
from ..nn.ssf import ScaleShift
from .base import Tuner
from .folding import Change, compute_folded, plain_kind
from .patterns import below
from .placement import chosen_layers
from .roles import keeps_statistics
from .swapped import RLRRLinear, SSFConv2d, SSFLayerNorm, SSFLinear

_SWAPS = {
    nn.Linear: SSFLinear,
    nn.Conv2d: SSFConv2d,
    nn.LayerNorm: SSFLayerNorm,
}


class SwappingTuner(Tuner):
    """Base of RLRR and SSF.

    A single output norm (of a classifier) gets a scale and a shift like the
    norms of the blocks. Where there are several (dense prediction), they
    train themselves: no checkpoint has values for them, and a norm at its
    start with a scale and a shift is a norm that trains.

    Attributes:
        init: Of the scales and shifts.
        layers: Indices of the adapted blocks, or None.
    """

    needs = ('linears',)
    tune_norms = True
    init: str
    layers: Sequence[int] | None
    # Whether one of the norms may be replaced.
    _replaceable = False

    def trained_stock(self, trunk: Family) -> list[str]:
        several = len(trunk.output_norms) > 1
        return below(trunk.output_norms) if several and self.tune_norms else []

    @abstractmethod
    def adapt(self, block: Block) -> nn.ModuleDict:
        """Adapt one block, and return what is added to it."""

    def adapt_blocks(self, trunk: Family) -> nn.ModuleList:
        """Adapt the blocks of ``layers``; the others get an empty module."""
        chosen = chosen_layers(self.layers, trunk, type(self).__name__)
        return nn.ModuleList(
            self.adapt(block) if i in chosen else nn.ModuleDict()
            for i, block in enumerate(trunk.blocks)
        )

    def scale_output(self, trunk: Family) -> None:
        """Scale and shift the single output norm, if there is one."""
        norms = trunk.output_norms
        if len(norms) == 1 and self.tune_norms:
            module = trunk.backbone.get_submodule(norms[0])
            norm = trunk.norm(module, trunk.channels)
            self.output = self.scale_shift(norm)

    def scale_shift(
        self, layer: Layer, before: Norm | None = None
    ) -> ScaleShift:
        """Put a scale and a shift behind a layer or norm, and return them.

        Args:
            layer: The layer or norm.
            before: The norm that feeds the layer.
        """
        module = layer.module
        kind = plain_kind(module) if layer.called else None
        if kind in _SWAPS:
            added = _SWAPS[kind].swap(module, self.init)
        else:
            added = ScaleShift(layer.shape[0], self.init)
            if not layer.called:
                compute_folded(layer, added.fold)
            else:
                layer.tap('out').change(added)
            if isinstance(layer, Norm):
                added.parameter_roles = {'scale': 'norm', 'shift': 'norm'}
            if keeps_statistics(module) and not self._replaceable:
                self._replaceable = True
                self.backbone.register_forward_pre_hook(self._follow)
        self.changes.append(Change(layer, added.fold, before))
        return added

    def scale_patch(self, projection: Layer) -> ScaleShift | None:
        """Scale and shift the patch projection, if it has a bias."""
        if projection.bias() is not None:
            return self.scale_shift(projection)
        print_log(
            f'{type(self).__name__} leaves the patch projection as it is: '
            'it has no bias that could take a shift',
            logger='current',
        )
        return None

    def linear_changes(self) -> list[Change]:
        self._follow()
        return super().linear_changes()

    def _follow(self, *_: object) -> None:
        """Hook the norms that took the place of others.

        Whoever turns BatchNorm into SyncBN, or back, replaces them, when
        training begins or after a model went into evaluation mode.
        """
        if traced():
            return
        for i, change in enumerate(self.changes):
            if not keeps_statistics(change.layer.module):
                continue
            module = self.backbone.get_submodule(change.layer.path)
            if module is not change.layer.module:
                norm = replace(change.layer, module=module)
                norm.tap('out').change(change.fold.__self__)
                self.changes[i] = replace(change, layer=norm)

    def rescale(
        self, layer: Layer, before: Norm | None = None, **options: object
    ) -> Rescaling:
        """Rescale a linear layer, and return what does.

        Args:
            layer: The layer.
            before: The norm that feeds it.
            options: Of :class:`mmlowrank.nn.rlrr.Rescaling`.
        """
        if layer.called and plain_kind(layer.module) is nn.Linear:
            added = RLRRLinear.swap(layer.module, **options)
        else:
            rows, columns = layer.shape[0], layer.shape[1:].numel()
            added = Rescaling(columns, rows, **options)
            compute_folded(layer, added.fold)
        self.changes.append(Change(layer, added.fold, before))
        return added
