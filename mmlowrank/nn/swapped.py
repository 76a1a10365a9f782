"""Layers that take the place of a stock layer without moving its tensors.

A swap changes the class of a layer that exists: ``weight`` and ``bias`` stay
the parameters they were, under the names they had, so checkpoints, hooks and
references are not disturbed. What the method adds lives in a module that the
caller owns; the layer only refers to it.
"""

from torch import Tensor, nn


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
