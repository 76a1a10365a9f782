"""The tuner protocol: one object says what a method adds, trains and keeps.

A tuner is attached to a stock backbone when the model is built, before any
distributed wrapper sees it. It becomes the backbone's child module
``tuner``: all its tensors live under that one name, and every stock
state-dict key stays as it was. Freezing, counting, optimizing and merging
ask the tuner; nothing is guessed from a parameter's name.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from mmengine.logging import print_log
from torch import Tensor, nn

from .anatomy import beyond_outputs

# The layers that keep statistics of their inputs while in train mode.
STATISTICS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)
CHILD = 'tuner'


class CannotMerge(RuntimeError):
    """The method has no equivalent stock checkpoint; the text says why."""


class Tuner(nn.Module, ABC):
    """Base of all tuners.

    A method overrides :meth:`build` (add modules, register hooks), and, if
    it trains tensors of the stock backbone, :meth:`trained_stock`. It must
    say in :meth:`merge` what its stock form is.

    Hooks must be objects, not closures: a deep copy of the model (EMA makes
    one) copies an object with the modules it refers to, but not a closure.

    Args:
        stochastic_trunk: Keep dropout and stochastic depth of the frozen
            trunk active in training. Off by default: frozen parts compute
            the same function in training and in evaluation.
    """

    backbone: nn.Module

    def __init__(self, stochastic_trunk: bool = False) -> None:
        super().__init__()
        self.stochastic_trunk = stochastic_trunk
        self._held: list[nn.Module] = []

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

    def attach(self, backbone: nn.Module) -> nn.Module:
        """Attach to ``backbone``, freeze what is not owned, return it.

        Raises:
            ValueError: If the backbone already has a tuner.
        """
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
        self.build(backbone)
        # Last child, so that train() below comes after the stock children.
        backbone.add_module(CHILD, self)
        # On the instance, because the class must stay the stock one:
        # mmpretrain's Swin upgrades old keys only where
        # ``self.__class__ is SwinTransformer``.
        backbone.init_weights = self.init_backbone_weights
        self._freeze()
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

        Raises:
            RuntimeError: Naming the first parameter that does not comply.
        """
        owned = self.owned()
        for name, parameter in self.backbone.named_parameters():
            if parameter.requires_grad == (name in owned):
                continue
            state, duty = (
                ('trains', 'freezes')
                if name not in owned
                else ('is frozen', 'trains')
            )
            raise RuntimeError(
                f"backbone parameter '{name}' {state}, but the tuner "
                f'{type(self).__name__} {duty} it. Something changed '
                'requires_grad after the model was built: remove that '
                'code, or choose a tuner that owns this parameter'
            )

    def train(self, mode: bool = True) -> 'Tuner':
        """Set the mode; frozen parts of the trunk stay in eval mode."""
        super().train(mode)
        if mode:
            for module in self._held:
                module.training = False
        return self

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
        before = _versions(stock)
        # Stock parts may draw their weights anew before the checkpoint is
        # loaded (a ViT's MLPs do), so the count starts with the loading.
        handle = stock._register_load_state_dict_pre_hook(
            lambda *_: before.update(_versions(stock))
        )
        try:
            type(stock).init_weights(stock)
        except RuntimeError as error:
            raise RuntimeError(
                f'{_checkpoint(stock)} does not fit this '
                f'{type(stock).__name__}: {_first_lines(error)} '
                'Check embed_dims, depths and num_heads against the '
                'checkpoint'
            ) from error
        finally:
            handle.remove()
            stock._modules[CHILD] = tuner
        if _checkpoint(stock) is None:
            return
        # Loading is not strict and says nothing; a write counts up the
        # tensor's version.
        silent = [
            name
            for name, parameter in stock.named_parameters()
            if not name.startswith(f'{CHILD}.')
            and parameter._version == before[name]
        ]
        self._report_unloaded(silent)

    def _report_unloaded(self, names: list[str]) -> None:
        # A normalisation that no checkpoint wrote is a plain normalisation
        # (weight 1, bias 0), as the output norms of every Swin are.
        norms = norm_parameters(self.backbone)
        names = [name for name in names if name not in norms]
        if not names:
            return
        text = (
            f'{_checkpoint(self.backbone)} left {len(names)} parameters of '
            f'{type(self.backbone).__name__} at their random start: '
            + ', '.join(names[:4])
            + (', ...' if len(names) > 4 else '')
        )
        if set(names) <= set(self.owned()):
            print_log(text, logger='current', level=30)
            return
        raise RuntimeError(
            f'{text}. They are frozen, so they would stay random. Is it '
            'the checkpoint of this architecture? Files from the Microsoft '
            'repository need convert_weights=True; whole classifiers of '
            "mmpretrain need their keys to start with 'backbone.'"
        )

    def _freeze(self) -> None:
        owned = self.owned()
        for name, parameter in self.backbone.named_parameters():
            if name not in owned:
                parameter.requires_grad_(False)
        ids = {id(tensor) for tensor in owned.values()}
        self._held = [
            module
            for part in self.backbone.children()
            if part is not self
            for module in self._modules_to_hold(part, ids)
        ]

    def _modules_to_hold(
        self, module: nn.Module, owned: set[int]
    ) -> Iterator[nn.Module]:
        """Yield the stock modules that stay in eval mode.

        A part that trains as a whole behaves as in full tuning. Elsewhere
        statistics do not move, and randomness follows ``stochastic_trunk``.
        """
        parameters = list(module.parameters())
        if parameters and all(id(p) in owned for p in parameters):
            return
        if isinstance(module, STATISTICS) or not self.stochastic_trunk:
            yield module
        for child in module.children():
            yield from self._modules_to_hold(child, owned)


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


def _versions(module: nn.Module) -> dict[str, int]:
    return {n: p._version for n, p in module.named_parameters()}


def norm_parameters(module: nn.Module) -> set[str]:
    """Return the names of the parameters of the normalisations."""
    kinds = (nn.LayerNorm, nn.GroupNorm, *STATISTICS)
    return {
        f'{path}.{name}'
        for path, part in module.named_modules()
        if isinstance(part, kinds)
        for name, _ in part.named_parameters(recurse=False)
    }


def _checkpoint(backbone: nn.Module) -> str | None:
    cfg = getattr(backbone, 'init_cfg', None)
    cfg = cfg if isinstance(cfg, dict) else {}
    return cfg.get('checkpoint')


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ' '.join(lines[:2])
