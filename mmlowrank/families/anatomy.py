"""The parts of a trunk that methods ask for.

A family (:mod:`.base`) says where its backbones have them. Tokens are passed
on with their channels last, whatever the trunk's own layout is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class Turns:
    """Which branch of a block runs, where one module ends several.

    Args:
        **branches: Name of a branch -> the module that begins it.
    """

    def __init__(self, **branches: nn.Module) -> None:
        self.now = ''
        self._branches = branches
        self._watching = False

    def watch(self) -> None:
        """Begin to look on; taps call it."""
        if not self._watching:
            self._watching = True
            for name, module in self._branches.items():
                module.register_forward_pre_hook(partial(self._begin, name))

    def _begin(self, name: str, *_: object) -> None:
        self.now = name


@dataclass(frozen=True)
class Tap:
    """A place where tokens go into a module, or come out of it.

    Attributes:
        module: The module.
        side: ``'in'`` (its first argument) or ``'out'``.
        channels: Dimension of the channels: -1 of tokens, 1 of maps.
        turn: Where the module is called for several branches: what knows
            which one runs, and the one that is meant.
    """

    module: nn.Module
    side: str
    channels: int = -1
    turn: tuple[Turns, str] | None = None

    def change(self, function: Callable[[Tensor], Tensor]) -> None:
        """Let ``function`` replace the tokens from now on."""
        self._hook(partial(_changed, function))

    def read(self, function: Callable[[Tensor], None]) -> None:
        """Let ``function`` see the tokens from now on."""
        self._hook(partial(_seen, function))

    def _hook(self, function: Callable[[Tensor, int], Any]) -> None:
        if self.turn is not None:
            self.turn[0].watch()
        # Partials, not closures: a deep copy of the model follows them.
        if self.side == 'in':
            hook = partial(_on_input, self, function)
            self.module.register_forward_pre_hook(hook)
        else:
            hook = partial(_on_output, self, function)
            self.module.register_forward_hook(hook)

    def _runs(self) -> bool:
        return self.turn is None or self.turn[0].now == self.turn[1]


def _on_input(
    tap: Tap, function: Callable, module: nn.Module, args: tuple
) -> tuple | None:
    if not tap._runs():
        return None
    new = function(args[0], tap.channels)
    return None if new is None else (new, *args[1:])


def _on_output(
    tap: Tap, function: Callable, module: nn.Module, args: tuple, out: Tensor
) -> Tensor | None:
    return function(out, tap.channels) if tap._runs() else None


def _changed(function: Callable, x: Tensor, channels: int) -> Tensor:
    return moved(function(moved(x, channels, -1)), -1, channels)


def _seen(function: Callable, x: Tensor, channels: int) -> None:
    function(moved(x, channels, -1))


def moved(x: Tensor, source: int, target: int) -> Tensor:
    """Return ``x`` with a dimension elsewhere, itself where that is so."""
    return x if source == target else x.movedim(source, target)


class Grid:
    """Where the tokens of a block stand in the image.

    Args:
        sized: A module inside the block that is called before any of its
            branches ends, with tokens and the (height, width) of their map.
            Not the block: it may run again for the backward pass, after a
            call with images of another size.
    """

    def __init__(self, sized: nn.Module) -> None:
        self._size: tuple[int, int] | None = None
        self._sized = sized
        self._watching = False

    def watch(self) -> None:
        """Begin to look on; who wants maps calls it."""
        if not self._watching:
            self._watching = True
            self._sized.register_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, args: tuple) -> None:
        self._size = args[1]

    def apply(
        self, function: Callable[[Tensor], Tensor], tokens: Tensor
    ) -> Tensor:
        """Apply a function of maps to tokens, (batch, tokens, channels)."""
        return function(tokens.unflatten(1, self._size)).flatten(1, 2)


def as_it_is(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function to what the taps pass."""
    return function(x)


@dataclass(frozen=True)
class Layer:
    """A linear map: a linear layer, a convolution, or a part of a module.

    Attributes:
        path: Of ``module`` in the backbone.
        module: What computes it when it is called.
        weight: Name of the weight in ``module``: (out, in, ...).
        biases: Names of the parts of the bias, in the order of its rows;
            None for a part that has none.
        parts: Maps whose rows are fused; 3 of a query-key-value projection.
        enters: Whether it reads what a branch begins with.
        behind: The BatchNorm that alone reads its output, if one does.
    """

    path: str
    module: nn.Module
    weight: str = 'weight'
    biases: tuple[str | None, ...] = ('bias',)
    parts: int = 1
    enters: bool = False
    behind: 'Norm | None' = None

    @property
    def called(self) -> bool:
        """Whether calling the module is this map and nothing else."""
        return self.weight == 'weight'

    def tap(self, side: str) -> Tap:
        """Return where tokens go into the module, or come out of it."""
        conv = isinstance(self.module, nn.Conv2d)
        return Tap(self.module, side, 1 if conv else -1)

    @property
    def is_matrix(self) -> bool:
        """Whether it takes each token alone to a token."""
        grouped = getattr(self.module, 'groups', 1) > 1
        return not grouped and self.shape[2:].numel() == 1

    @property
    def shape(self) -> torch.Size:
        """Of the weight."""
        return self._tensor(self.weight).shape

    @property
    def name(self) -> str:
        """Of the weight in the backbone."""
        return self.named(self.weight)

    def named(self, tensor: str) -> str:
        """Return the name in the backbone of a tensor of ``module``."""
        return f'{self.path}.{tensor}'.removeprefix('.')

    def bias(self) -> Tensor | None:
        """Return the whole bias, (out,), zero in parts that have none."""
        found = [n and self._tensor(n) for n in self.biases]
        known = [t for t in found if t is not None]
        if not known:
            return None
        if len(found) == 1:
            return known[0]
        zeros = torch.zeros_like(known[0])
        return torch.cat([zeros if t is None else t for t in found])

    def folded(
        self, fold: Callable[[Tensor, Tensor | None], tuple]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return what the module computes the changed map with.

        Args:
            fold: (weight as a matrix, bias) -> those of the changed map.

        Returns:
            Name in the module -> tensor; and, if it has no bias, the shift
            of the output.
        """
        stock, bias = self._tensor(self.weight), self.bias()
        matrix = stock if stock.ndim == 1 else stock.flatten(1)
        weight, shift = fold(matrix, bias)
        tensors = {self.weight: weight.view_as(stock)}
        if bias is None or shift is None:
            return tensors, shift
        if len(self.biases) == 1:
            return tensors | {self.biases[0]: shift}, None
        for name, part in zip(
            self.biases, shift.chunk(len(self.biases)), strict=True
        ):
            if name is not None:
                tensors[name] = part
        return tensors, None

    def _tensor(self, name: str) -> Tensor | None:
        path, _, leaf = name.rpartition('.')
        return self.module.get_submodule(path)._parameters.get(leaf)


@dataclass(frozen=True)
class Norm(Layer):
    """A normalisation with a weight.

    Attributes:
        channels: Dimension of the channels of its output.
    """

    channels: int = -1

    def tap(self, side: str) -> Tap:
        """Return the input or output, as of a layer."""
        return Tap(self.module, side, self.channels)


@dataclass(frozen=True)
class Branch:
    """One residual branch of a block.

    Attributes:
        stream: Reads the residual stream, before any norm.
        end: The branch before stochastic depth, where adapters stand.
        output: What is added to the stream.
    """

    stream: Tap
    end: Tap
    output: Tap


@dataclass(frozen=True)
class MLP:
    """What may be computed again instead of kept.

    Attributes:
        norm: The norm that only ``layers`` read.
        layers: A linear layer, an activation, a linear layer.
        around: The module that applies them.
    """

    norm: nn.Module
    layers: nn.Module
    around: nn.Module


@dataclass(frozen=True)
class Block:
    """One block of a trunk. What a family does not have is empty.

    Attributes:
        module: The block.
        width: Channels of its tokens.
        branches: Name -> residual branch, in order.
        linears: Name of a branch -> name -> layer, in order.
        norms: Name of a branch -> the norm that goes with it.
        mlp: What may be rewritten, or None.
        closed: Whether it ends in a norm of the residual stream.
        grid: Where its tokens stand; None of maps, which show it.
    """

    module: nn.Module
    width: int
    branches: dict[str, Branch] = field(default_factory=dict)
    linears: dict[str, dict[str, Layer]] = field(default_factory=dict)
    norms: dict[str, Norm] = field(default_factory=dict)
    mlp: MLP | None = None
    closed: bool = False
    grid: Grid | None = None

    def over_maps(self) -> Callable[[Callable, Tensor], Tensor]:
        """Return what applies a function of maps to what the taps pass.

        It takes the function, of (batch, height, width, channels), and what
        the taps pass; it returns the result in the form of the latter. Only
        where the family does not lack ``'maps'``.
        """
        if self.grid is None:
            return as_it_is
        self.grid.watch()
        return self.grid.apply


@dataclass(frozen=True)
class Merging:
    """The patch merging between two stages.

    Attributes:
        module: The stock module.
        norm: Its norm, if that stands before ``reduction``.
        reduction: Its linear map, if it is one.
        run: (module, tokens behind the stage, arguments of the stock call)
            -> tokens before the next stage, as the trunk has them.
    """

    module: nn.Module
    run: Callable[[nn.Module, Tensor, tuple], Tensor]
    norm: Norm | None = None
    reduction: Layer | None = None


@dataclass(frozen=True)
class Stage:
    """Blocks of one width.

    Attributes:
        blocks: In order.
        merging: Behind them; None behind the last stage, or if there is none.
    """

    blocks: list[Block]
    merging: Merging | None = None


@dataclass(frozen=True)
class Output:
    """Where tokens leave the trunk.

    Attributes:
        after: Indices of the stage and the block behind which they leave.
        norm: Path of the norm that reads them and nothing else, or None.
        finish: Without such a norm: (tokens, the stock output) -> what the
            backbone would return for these tokens.
    """

    after: tuple[int, int]
    norm: str | None = None
    finish: Callable[[Tensor, Tensor], Tensor] | None = None
