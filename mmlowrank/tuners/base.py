"""The tuner protocol: one object says what a method adds, trains and keeps.

A tuner is attached to a stock backbone when the model is built, before any
distributed wrapper sees it. It becomes the backbone's child module
``tuner``: all its tensors live under that one name, and every stock
state-dict key stays as it was. Freezing, counting, optimizing and merging
ask the tuner; nothing is guessed from a parameter's name.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from mmengine.logging import print_log
from torch import Tensor, nn

from ..families import PARTS, Family, family_of
from ..families.rewriting import check_options
from ..registry import TUNERS
from .checkpointing import (
    checkpoint_forward,
    take_over_reentrant,
    take_over_with_cp,
)
from .folding import Change, Unmergeable, merged
from .holding import modules_to_hold
from .patterns import (
    UNFREEZE,
    asked_for,
    completed,
    matching,
)
from .weights import CHILD, KnowsWeights, tensors_of


class CannotMerge(RuntimeError):
    """The method has no equivalent stock checkpoint; the text says why."""


class Tuner(KnowsWeights, nn.Module, ABC):
    """Base of all tuners.

    A method says what it ``needs`` of a trunk and what it adds in
    :meth:`build` (or in :meth:`.blocks.BlockTuner.adapt`, one module for each
    block), and, if it trains tensors of the stock backbone, in
    :meth:`trained_stock` which. What it changes linearly it notes in
    ``changes``, by which it merges; or it says in ``cannot_merge`` why it
    does not.

    The backbone may be any module: the decoder of a detector is the
    ``backbone`` of the tuner that is attached to it.

    Hooks must be bound methods or partials, not closures: a deep copy of the
    model (EMA makes one) copies them with the modules they refer to.

    Attributes:
        needs: Parts of a trunk without which the method is not defined, of
            ``families.PARTS``.
        cannot_merge: Why no stock checkpoint computes the same.
        changes: Linear changes of stock layers.
        own_hooks: Numbers of its hooks on the backbone as a whole.
        trains_nothing: Whether it is meant to freeze only.
        repeatable: Whether a part of the trunk may run a second time in the
            backward pass. Not where hooks keep the state of one forward
            pass; activation checkpointing leaves such a trunk alone.
        arguments: Those it was built with, defaults included; none if it was
            not built from a config.
        build_stock: Builds the stock backbone again; as above.
    """

    backbone: nn.Module
    needs: ClassVar[tuple[str, ...]] = ()
    cannot_merge: ClassVar[str | None] = None
    trains_nothing: ClassVar[bool] = False
    repeatable = True
    changes: list[Change]
    own_hooks: set[int]
    arguments: Mapping[str, Any] = MappingProxyType({})
    build_stock: Callable[[], nn.Module] | None = None

    # -- what a method defines --------------------------------------------

    @abstractmethod
    def build(self, trunk: Family) -> None:
        """Add this method's modules to ``self`` and hook the trunk."""

    def trained_stock(self, trunk: Family) -> list[str]:
        """Return patterns of the names of stock tensors that train.

        Regular expressions that match from the start. They are resolved
        once, together with ``trainable`` of the config. What the stock
        ``frozen_stages`` freezes stays frozen all the same.
        """
        return []

    def linear_changes(self) -> list[Change]:
        """Return all linear changes, of the layers that are there now."""
        return self.changes

    def follow_stock(self) -> None:
        """Take over what :meth:`init_backbone_weights` has written."""

    @property
    def title(self) -> str:
        """What tables and errors call the method."""
        return type(self).__name__

    def defaults(self) -> dict[str, Any]:
        """Return argument -> default, as in ``arguments``."""
        parameters = inspect.signature(type(self)).parameters
        return {name: p.default for name, p in parameters.items()}

    @property
    def methods(self) -> list['Tuner']:
        """The methods that it consists of."""
        return [self]

    def losses(self) -> dict[str, Tensor]:
        """Return name -> a loss of this method's own, a scalar."""
        return {}

    # -- what every method gets -------------------------------------------

    def attach(
        self,
        backbone: nn.Module,
        stochastic_trunk: bool = False,
        memory: str = 'lean',
        attention: str = 'auto',
        trainable: Sequence[str] = (),
    ) -> nn.Module:
        """Attach to ``backbone``, freeze what is not owned, return it.

        Args:
            backbone: A stock backbone, or any other part of a model.
            stochastic_trunk: Keep dropout and stochastic depth of the frozen
                trunk active in training.
            memory: ``'lean'`` or ``'stock'``, see :mod:`..families.rewriting`.
            attention: How windows of a lean trunk attend, see there.
            trainable: Patterns of names of stock tensors that train besides
                what the method trains.

        Raises:
            TypeError: If the trunk lacks what the method needs.
            ValueError: If the backbone already has a tuner, a word is
                unknown, or a pattern matches nothing that can train.
        """
        check_options(memory, attention)
        if isinstance(backbone, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            raise TypeError(
                f'a {type(backbone).__name__} has no room for a tuner: its '
                'items are counted. Name one of the items, or the part that '
                'it is in, with sites (and trainable) that pick them'
            )
        if hasattr(backbone, CHILD):
            raise ValueError(
                f'{type(backbone).__name__} already has an attribute '
                f"'{CHILD}'; attach one tuner to a backbone"
            )
        trunk = family_of(backbone)
        for method in self.methods:
            method.check_fits(trunk)
        # Stock Swins apply their own frozen_stages in train(), which would
        # be after the distributed wrap: make them do it now.
        backbone.train()
        already_frozen = {
            name
            for name, parameter in backbone.named_parameters(
                remove_duplicate=False
            )
            if not parameter.requires_grad
        }
        # What no output depends on gets no gradient, so it cannot train.
        named = backbone.named_parameters(remove_duplicate=False)
        stock, unused = [name for name, _ in named], trunk.unused()
        asked = asked_for(trainable, stock, backbone, already_frozen, unused)
        stock = [name for name in stock if name not in unused]
        named = {*matching(self.trained_stock(trunk), stock), *asked}
        self._trained_stock = completed(backbone, named - already_frozen)
        self.stochastic_trunk = stochastic_trunk
        before = hooks_of(backbone)
        self.join(trunk)
        self.own_hooks = hooks_of(backbone) - before
        for method in self.methods:
            named = {*matching(method.trained_stock(trunk), stock)}
            if not any(True for _ in method.parameters()):
                method._check_some_train(named, already_frozen)
        # Last child, so that train() below comes after the stock children.
        backbone.add_module(CHILD, self)
        # On the instance, because the class must stay the stock one:
        # mmpretrain's Swin upgrades old keys only where
        # ``self.__class__ is SwinTransformer``.
        if hasattr(backbone, 'init_weights'):
            backbone.init_weights = self.init_backbone_weights
        owned = self.owned()
        for name, parameter in backbone.named_parameters():
            if name not in owned:
                parameter.requires_grad_(False)
        if memory == 'lean':
            trunk.rewrite({id(t) for t in owned.values()}, attention)
        self._checkpoint(take_over_with_cp(backbone))
        self.watch_weights()
        backbone.train()
        return backbone

    def join(self, trunk: Family) -> None:
        """Build this method's modules beside a trunk."""
        # In __dict__, because as a registered child it would be a cycle.
        self.__dict__['backbone'] = trunk.backbone
        self.changes = []
        self.build(trunk)

    def check_fits(self, trunk: Family) -> None:
        """Check that a trunk has what this method needs.

        Raises:
            TypeError: Saying what it lacks, and which methods fit it.
        """
        missing = [part for part in self.needs if part in trunk.lacks]
        if not missing:
            return
        fit = sorted(
            name
            for name, kind in TUNERS.module_dict.items()
            if not {*kind.needs} & {*trunk.lacks}
        )
        raise TypeError(
            f'{type(self).__name__} cannot be attached to '
            f'{type(trunk.backbone).__name__}: it needs {PARTS[missing[0]]}, '
            f'but {trunk.lacks[missing[0]]}. Tuners that fit this backbone: '
            + ', '.join(fit)
        )

    def _check_some_train(self, named: set[str], frozen: set[str]) -> None:
        """Check that there is something that the method trains.

        Raises:
            ValueError: If there is nothing, or the config freezes all of it.
        """
        if not named and not self.trains_nothing:
            raise ValueError(
                f'{self.title} would train nothing of '
                f'{type(self.backbone).__name__}, which has nothing that it '
                "acts on: choose another tuner, or dict(type='Fixed')"
            )
        if named and named <= frozen:
            raise ValueError(
                f'{type(self).__name__} would train {len(named)} tensors, '
                f'{min(named)} among them, but the config freezes all of '
                f'them. {UNFREEZE}'
            )

    def merge(self) -> dict[str, Tensor]:
        """Return a stock state dict with the same outputs.

        Raises:
            CannotMerge: If the method, or this backbone, has no such form.
        """
        because = self.cannot_merge
        if because is None:
            try:
                return merged(
                    self.stock_state_dict(), self.linear_changes(), self.title
                )
            except Unmergeable as error:
                because = str(error)
        raise CannotMerge(
            f'{self.title} cannot be merged into a stock '
            f'checkpoint, because {because}. Ship the tuned model with '
            'mmlowrank'
        )

    def owned(self) -> dict[str, Tensor]:
        """Return name (relative to the backbone) -> tensor that trains.

        Parameters, and the buffers whose statistics move with them.
        """
        return {
            name: tensor
            for name, tensor in tensors_of(self.backbone)
            if name.startswith(f'{CHILD}.') or name in self._trained_stock
        }

    def frozen(self) -> dict[str, Tensor]:
        """Return name -> tensor of the backbone that never changes."""
        owned = self.owned()
        return {
            name: tensor
            for name, tensor in tensors_of(self.backbone)
            if name not in owned
        }

    def added(self) -> dict[str, Tensor]:
        """Return name -> tensor that the stock backbone does not have."""
        return {
            name: tensor
            for name, tensor in tensors_of(self.backbone)
            if name.startswith(f'{CHILD}.')
        }

    def stock_state_dict(self) -> dict[str, Tensor]:
        """Return the backbone's state dict without the tuner's own keys."""
        return {
            name: tensor
            for name, tensor in self.backbone.state_dict().items()
            if not name.startswith(f'{CHILD}.')
        }

    def check(self) -> None:
        """Check that exactly the owned parameters require gradients.

        A backbone that is frozen as a whole passes, as that of the teacher
        in semi-supervised training is.

        Raises:
            RuntimeError: Naming the first parameter that does not comply.
        """
        owned = self.owned()
        parameters = dict(self.backbone.named_parameters())
        if not any(p.requires_grad for p in parameters.values()):
            return
        for name, parameter in parameters.items():
            if parameter.requires_grad == (name in owned):
                continue
            states = ('is frozen', 'trains')
            state, duty = states if name in owned else ('trains', 'freezes')
            raise RuntimeError(
                f"backbone parameter '{name}' {state}, but the tuner "
                f'{self.title} {duty} it. Something changed '
                'requires_grad after the model was built: remove that '
                'code, or choose a tuner that owns this parameter'
            )

    def train(self, mode: bool = True) -> 'Tuner':
        """Set the mode; frozen parts of the trunk stay in eval mode.

        Which modules these are is asked anew each time: frameworks replace
        modules after a model is built (SyncBN to BN and back).
        """
        super().train(mode)
        # A method of a composition is not the backbone's tuner itself.
        if mode and self.backbone._modules.get(CHILD, self) is self:
            owned = {id(tensor) for tensor in self.owned().values()}
            for module in modules_to_hold(
                self.backbone, owned, self, self.stochastic_trunk
            ):
                module.training = False
            self._checkpoint(take_over_reentrant(self.backbone))
        return self

    def _checkpoint(self, parts: list[nn.Module]) -> None:
        for part in parts:
            if self.repeatable:
                checkpoint_forward(part)


def hooks_of(module: nn.Module) -> set[int]:
    """Return the numbers of the hooks around the forward of a module."""
    return {*module._forward_hooks, *module._forward_pre_hooks}


def tuners_of(model: nn.Module) -> dict[str, Tuner]:
    """Return path -> tuner for every tuner in ``model``.

    Of a composition that is the whole, and none of its methods.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Tuner) and name.split('.')[-1] == CHILD
    }


def checkpoint_parts(model: nn.Module, paths: Iterable[str]) -> None:
    """Keep only the inputs of some parts of a model, without re-entry.

    Args:
        model: The model, not wrapped.
        paths: Of the parts, e.g. ``'backbone.stages.2'``.

    Raises:
        AttributeError: If there is no such part.
    """
    alone = [t.backbone for t in tuners_of(model).values() if not t.repeatable]
    for path in paths:
        part = model.get_submodule(path)
        trunk = next((b for b in alone if part in [*b.modules()]), None)
        if trunk is None:
            checkpoint_forward(part)
        else:
            print_log(
                f"activation_checkpointing of '{path}' is left out: "
                f'{trunk.tuner.title} keeps nothing of its trunk, '
                'so there is nothing to win',
                logger='current',
            )
