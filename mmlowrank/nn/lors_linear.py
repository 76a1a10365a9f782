"""A linear layer of one stage of LORS^T, for a stack that exists.

A decoder of ours calls :class:`.lors.LORSStatic` with the number of a stage.
A stock model calls layers that know nothing of stages: there each stage gets
a :class:`LORSLinear` in place of its linear layer.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .lors import LORSStatic


class LORSLinear(nn.Module):
    """The linear layer that a stage of LORS^T is.

    It has no parameters. They stay with the stack, which the caller
    registers once: so they are once in a state dict, in an optimizer and in
    a copy, however many stages share them.

    The weight is formed (equation 8), which is the cheaper way for as many
    rows as a Transformer has: in DeiT-Tiny from 154 on at the latest, and an
    image has 197. See :meth:`LORSStatic.effective`.

    Args:
        stack: Of all stages. Not a child of this layer.
        stage: Index of the stage.
        joint: What stands in a stock state dict between the path of this
            layer and ``weight``: ``'_'`` for the projection ``in_proj`` of
            ``nn.MultiheadAttention``, which is no layer there.
    """

    def __init__(
        self, stack: LORSStatic, stage: int, joint: str = '.'
    ) -> None:
        super().__init__()
        # Past nn.Module.__setattr__, which would register a child.
        self.__dict__['stack'] = stack
        self.stage = stage
        self.joint = joint
        # As of nn.Linear, which stock code asks for them.
        self.out_features, self.in_features = stack.weight.shape

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight (out, in) and bias (out,) of the plain layer."""
        return self.stack.effective(self.stage)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        return F.linear(x, *self.effective())

    def extra_repr(self) -> str:
        """Return what the layer is, for the printed model."""
        rank = self.stack.B[self.stage].shape[1]
        return (
            f'{self.in_features}, {self.out_features}, '
            f'stage={self.stage}, {rank=}'
        )
