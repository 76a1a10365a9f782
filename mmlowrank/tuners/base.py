"""The tuner protocol: one object says what a method adds, trains and keeps.

A tuner is attached to a stock backbone when the model is built, before any
distributed wrapper sees it. It becomes the backbone's child module
``tuner``: all its tensors live under that one name, and every stock
state-dict key stays as it was. Freezing, counting, optimizing and merging
ask the tuner; nothing is guessed from a parameter's name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..nn.kernels.autograd import traced
from .anatomy import beyond_outputs
from .checkpointing import (
    checkpoint_forward,
    take_over_reentrant,
    take_over_with_cp,
)
from .lean import make_lean
from .roles import keeps_statistics, norm_tensors
from .written import Unwritten, checkpoint_of, report

CHILD = 'tuner'


class CannotMerge(RuntimeError):
    """The method has no equivalent stock checkpoint; the text says why."""


class Tuner(nn.Module, ABC):
    """Base of all tuners.

    A method overrides :meth:`build` (add modules, register hooks), and, if
    it trains tensors of the stock backbone, :meth:`trained_stock`. It must
    say in :meth:`merge` what its stock form is.

    Hooks must be bound methods or partials, not closures: a deep copy of the
    model (EMA makes one) copies them with the modules they refer to.

    Attributes:
        repeatable: Whether a part of the trunk may run a second time in the
            backward pass. Not where hooks keep the state of one forward
            pass; activation checkpointing leaves such a trunk alone.
        arguments: Those it was built with, defaults included; none if it was
            not built from a config.
        build_stock: Builds the stock backbone again; as above.
    """

    backbone: nn.Module
    repeatable = True
    arguments: Mapping[str, Any] = MappingProxyType({})
    build_stock: Callable[[], nn.Module] | None = None

    # -- what a method defines --------------------------------------------

    def build(self, backbone: nn.Module) -> None:
        """Add this method's modules to ``self`` and hook the backbone."""

    def trained_stock(self, backbone: nn.Module) -> set[str]:
        """Return names of the stock tensors that this method trains.

        What the stock ``frozen_stages`` freezes stays frozen all the same.
        """
        return set()

    @abstractmethod
    def merge(self) -> dict[str, Tensor]:
        """Return a stock state dict with the same outputs.

        Raises:
            CannotMerge: If the method has no such form.
        """

    # -- what every method gets -------------------------------------------

    def attach(
        self,
        backbone: nn.Module,
        stochastic_trunk: bool = False,
        memory: str = 'lean',
    ) -> nn.Module:
        """Attach to ``backbone``, freeze what is not owned, return it.

        Args:
            backbone: A stock backbone.
            stochastic_trunk: Keep dropout and stochastic depth of the frozen
                trunk active in training.
            memory: ``'lean'`` or ``'stock'``, see :mod:`.lean`.

        Raises:
            ValueError: If the backbone already has a tuner, or ``memory`` is
                unknown.
        """
        if memory not in ('lean', 'stock'):
            raise ValueError(
                f"memory must be 'lean' or 'stock', got {memory!r}"
            )
        if hasattr(backbone, CHILD):
            raise ValueError(
                f'{type(backbone).__name__} already has an attribute '
                f"'{CHILD}'; attach one tuner to a backbone"
            )
        # Stock Swins apply their own frozen_stages in train(), which would
        # be after the distributed wrap: make them do it now.
        backbone.train()
        already_frozen = {
            name
            for name, parameter in backbone.named_parameters()
            if not parameter.requires_grad
        }
        # What no output depends on gets no gradient, so it cannot train.
        self._trained_stock = self.trained_stock(backbone) - (
            already_frozen | beyond_outputs(backbone)
        )
        # In __dict__, because as a registered child it would be a cycle.
        self.__dict__['backbone'] = backbone
        self.stochastic_trunk = stochastic_trunk
        self.build(backbone)
        # Last child, so that train() below comes after the stock children.
        backbone.add_module(CHILD, self)
        # On the instance, because the class must stay the stock one:
        # mmpretrain's Swin upgrades old keys only where
        # ``self.__class__ is SwinTransformer``.
        backbone.init_weights = self.init_backbone_weights
        owned = self.owned()
        for name, parameter in backbone.named_parameters():
            if name not in owned:
                parameter.requires_grad_(False)
        if memory == 'lean':
            make_lean(backbone, {id(tensor) for tensor in owned.values()})
        self._checkpoint(take_over_with_cp(backbone))
        self._unwritten = Unwritten(self.stock_weights())
        # Whether a checkpoint was loaded into the backbone by anybody.
        self._loaded = self._weights_checked = False
        backbone.register_load_state_dict_post_hook(self._note_loading)
        backbone.register_forward_pre_hook(self._before_forward)
        backbone.train()
        return backbone

    def owned(self) -> dict[str, Tensor]:
        """Return name (relative to the backbone) -> tensor that trains.

        Parameters, and the buffers whose statistics move with them.
        """
        return {
            name: tensor
            for name, tensor in _tensors(self.backbone)
            if name.startswith(f'{CHILD}.') or name in self._trained_stock
        }

    def frozen(self) -> dict[str, Tensor]:
        """Return name -> tensor of the backbone that never changes."""
        owned = self.owned()
        return {
            name: tensor
            for name, tensor in _tensors(self.backbone)
            if name not in owned
        }

    def added(self) -> dict[str, Tensor]:
        """Return name -> tensor that the stock backbone does not have."""
        return {
            name: tensor
            for name, tensor in _tensors(self.backbone)
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
                f'{type(self).__name__} {duty} it. Something changed '
                'requires_grad after the model was built: remove that '
                'code, or choose a tuner that owns this parameter'
            )

    def train(self, mode: bool = True) -> 'Tuner':
        """Set the mode; frozen parts of the trunk stay in eval mode.

        Which modules these are is asked anew each time: frameworks replace
        modules after a model is built (SyncBN to BN and back).
        """
        super().train(mode)
        if mode:
            for module in self._modules_to_hold():
                module.training = False
            self._checkpoint(take_over_reentrant(self.backbone))
        return self

    def _checkpoint(self, parts: list[nn.Module]) -> None:
        for part in parts:
            if self.repeatable:
                checkpoint_forward(part)

    def init_backbone_weights(self) -> None:
        """Run the stock ``init_weights``, out of reach of the tuner.

        Stock Swins re-draw every ``nn.Linear`` below them, or load a
        checkpoint and report the keys it lacks. Neither concerns the tuner,
        which was initialised when it was made.

        Raises:
            RuntimeError: If a pretrained checkpoint does not fit, or leaves
                a frozen weight at its random start.
        """
        stock = self.backbone
        tuner = stock._modules.pop(CHILD)
        loaded = self._loaded
        try:
            with self._unwritten.drawing(stock, self.stock_weights):
                type(stock).init_weights(stock)
        except RuntimeError as error:
            if checkpoint_of(stock) is None:
                raise
            raise RuntimeError(
                f'{checkpoint_of(stock)} does not fit this '
                f'{type(stock).__name__}: {_first_lines(error)} '
                'Change the arguments of the backbone that these sizes come '
                'from (of a Swin: embed_dims, num_heads, patch_size or '
                'in_channels), or take another checkpoint'
            ) from error
        finally:
            stock._modules[CHILD] = tuner
            self._loaded = loaded
        if checkpoint_of(stock) is not None:
            self._report_unwritten()

    def check_weights(self) -> None:
        """Check that something wrote the frozen weights, once a loading.

        Called before the first iteration. Without any checkpoint there is a
        warning only: a random trunk may be a test of everything else.

        Raises:
            RuntimeError: If a checkpoint was loaded that left frozen weights
                at their random start.
        """
        if not self._weights_checked:
            self._report_unwritten()
            self._weights_checked = True

    def _drawn(self) -> list[str]:
        """Return the stock weights that nothing has written yet."""
        # A normalisation that no checkpoint wrote is a plain normalisation
        # (weight 1, bias 0), as the output norms of every Swin are. Its
        # statistics belong to the weights before it.
        norms = norm_tensors(self.backbone)
        parameters = dict(self.backbone.named_parameters())
        return [
            name
            for name in self._unwritten.names(self.stock_weights())
            if name not in norms or name not in parameters
        ]

    def _report_unwritten(self) -> None:
        names = self._drawn()
        source = checkpoint_of(self.backbone)
        if source is None and self._loaded:
            source = 'the checkpoint that was loaded into the model'
        frozen = [name for name in names if name not in self.owned()]
        report(names, frozen, type(self.backbone).__name__, source)

    def has_base(self) -> bool:
        """Whether anything has written the weights that stay frozen."""
        return not (set(self._drawn()) & self.frozen().keys())

    def stock_weights(self) -> dict[str, Tensor]:
        """Return name -> stock tensor that a checkpoint has values for.

        Parameters, and statistics; the other buffers are computed. Not from
        the state dict, which torch's FSDP gathers anew each time.
        """
        return {
            name: tensor
            for name, tensor in _tensors(self.backbone)
            if not name.startswith(f'{CHILD}.')
            and (
                isinstance(tensor, nn.Parameter)
                or name.endswith(('.running_mean', '.running_var'))
            )
        }

    def _note_loading(self, *_: object) -> None:
        self._loaded, self._weights_checked = True, False
        self._unwritten.settle(self.stock_weights())

    def _before_forward(self, *_: object) -> None:
        if self.training and torch.is_grad_enabled() and not traced():
            self.check_weights()

    def _modules_to_hold(self) -> Iterator[nn.Module]:
        """Yield the stock modules that stay in eval mode.

        A part that trains as a whole behaves as in full tuning. Elsewhere
        statistics do not move, and randomness follows ``stochastic_trunk``.
        """
        owned = {id(tensor) for tensor in self.owned().values()}
        # By path, in one pass over the parameters: loops that count
        # iterations set the mode before each.
        trained, frozen = set(), set()
        parameters = self.backbone.named_parameters(remove_duplicate=False)
        for name, parameter in parameters:
            (trained if id(parameter) in owned else frozen).update(
                _parents(name)
            )
        return self._held_below('', self.backbone, trained - frozen)

    def _held_below(
        self, path: str, module: nn.Module, whole: set[str]
    ) -> Iterator[nn.Module]:
        if path in whole:
            return
        if path and (keeps_statistics(module) or not self.stochastic_trunk):
            yield module
        for name, child in module.named_children():
            if child is not self:
                below = f'{path}.{name}' if path else name
                yield from self._held_below(below, child, whole)


def _parents(name: str) -> Iterator[str]:
    """Yield the path of each module that a tensor is in, and the root's."""
    while name:
        name = name.rpartition('.')[0]
        yield name


def tuners_of(model: nn.Module) -> dict[str, Tuner]:
    """Return path -> tuner for every tuner in ``model``."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Tuner)
    }


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


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
                f'{type(trunk.tuner).__name__} keeps nothing of its trunk, '
                'so there is nothing to win',
                logger='current',
            )


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ' '.join(lines[:2])
