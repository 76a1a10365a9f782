"""Layers that take the place of a stock layer without moving its tensors.

A swap changes the class of a layer that exists: ``weight`` and ``bias`` stay
the parameters they were, under the names they had, so checkpoints, hooks and
references are not disturbed. What the method adds lives in a module that the
caller owns; the layer only refers to it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.rlrr import Rescaling
from ..nn.ssf import ScaleShift


class Swapped:
    """Mixin of a layer that computes with changed weight and bias.

    Attributes:
        added: The module with what the method adds to this layer. Its
            ``fold(weight, bias)`` returns those of the stock layer that
            equals the two. Not a child of the layer: it appears in a state
            dict where its owner registers it.
    """

    added: nn.Module

    @classmethod
    def _swap(cls, layer: nn.Module, added: nn.Module) -> nn.Module:
        """Make ``layer`` one of this class and return ``added``.

        Raises:
            TypeError: If the layer is swapped already or of another kind.
        """
        kind = next(
            base
            for base in cls.__mro__
            if issubclass(base, nn.Module) and not issubclass(base, Swapped)
        )
        if isinstance(layer, Swapped) or not isinstance(layer, kind):
            raise TypeError(
                f'{cls.__name__} takes the place of a {kind.__name__}, got '
                f'{type(layer).__name__}'
            )
        layer.__class__ = cls
        # Past nn.Module.__setattr__, which would register a child.
        layer.__dict__['added'] = added.to(layer.weight)
        return added

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight and bias of the stock layer that equals this.

        Differentiable with respect to what the method adds.
        """
        return self.added.fold(self.weight, self.bias)


class RLRRLinear(Swapped, nn.Linear):
    """A linear layer with a :class:`Rescaling`.

    Made by :meth:`swap` from a layer that exists.
    """

    @classmethod
    def swap(cls, linear: nn.Linear, **options: object) -> Rescaling:
        """Rescale ``linear`` from now on; see :class:`Swapped`.

        Args:
            linear: Keeps its ``weight`` and ``bias``.
            options: Of :class:`Rescaling`.

        Returns:
            What is added, for the caller to register.

        Raises:
            TypeError: If it is no linear layer, or swapped already.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(
                f'RLRRLinear takes the place of a Linear, got '
                f'{type(linear).__name__}'
            )
        added = Rescaling(linear.in_features, linear.out_features, **options)
        return cls._swap(linear, added)

    @property
    def scale_left(self) -> Tensor | None:
        """The left scale c, (groups, in)."""
        return self.added.scale_left

    @property
    def scale_right(self) -> Tensor | None:
        """The right scale r, (out, 1)."""
        return self.added.scale_right

    @property
    def shift(self) -> Tensor:
        """The shift f, (1, out)."""
        return self.added.shift

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        return self.added(x, self.weight, self.bias)


class _SSFSwapped(Swapped):
    @classmethod
    def swap(cls, layer: nn.Module, init: str = 'paper') -> ScaleShift:
        """Put an SSF behind ``layer`` and return it; see :class:`Swapped`.

        Raises:
            TypeError: If the layer is of another kind, or has no weight.
        """
        if getattr(layer, 'weight', None) is None:
            raise TypeError(
                f'{type(layer).__name__} has no weight; SSF needs an affine '
                'layer to fold into'
            )
        return cls._swap(layer, ScaleShift(layer.weight.shape[0], init))


class SSFLayerNorm(_SSFSwapped, nn.LayerNorm):
    """A LayerNorm with an SSF folded into it.

    Both scale and shift are parameters of a norm then.
    """

    @classmethod
    def swap(cls, layer: nn.Module, init: str = 'paper') -> ScaleShift:
        added = super().swap(layer, init)
        added.parameter_roles = {'scale': 'norm', 'shift': 'norm'}
        return added

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, scale and shift: (..., channels)."""
        weight, bias = self.effective()
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class SSFLinear(_SSFSwapped, nn.Linear):
    """A linear layer with an SSF behind it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        return self.added(F.linear(x, self.weight, self.bias))


class SSFConv2d(_SSFSwapped, nn.Conv2d):
    """A convolution with an SSF behind it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, out, height, width)."""
        return self.added(nn.Conv2d.forward(self, x), dim=1)
