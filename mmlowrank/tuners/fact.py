"""FacT-TK in a frozen ViT (AAAI 2023), a baseline of the RLRR paper."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..nn import fact
from ..registry import TUNERS
from .anatomy import transformer_stages
from .base import Tuner


@TUNERS.register_module()
class FacT(Tuner):
    """One Tucker-factorised update of every linear layer of the blocks.

    Args:
        rank: Of all factors; the RLRR paper compares with at most 32,
            chosen for each data set.
        scale: Factor of the update, chosen for each data set in the paper.

    Raises:
        TypeError: If the blocks differ in width, as a Swin's do.
    """

    def __init__(
        self,
        rank: int = 16,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.options = dict(rank=rank, scale=scale)

    def build(self, backbone: nn.Module) -> None:
        layers = list(self._layers(backbone))
        width = layers[0][0].in_features
        self.factors = fact.FacTFactors(
            width, layers[-1][1].stop, **self.options
        )
        for linear, blocks in layers:
            linear.register_forward_hook(_Update(self.factors, blocks))

    @torch.no_grad()
    def merge(self) -> dict[str, Tensor]:
        """Return the stock state dict with the updates in its weights."""
        state_dict = self.stock_state_dict()
        names = {id(m): name for name, m in self.backbone.named_modules()}
        for linear, blocks in self._layers(self.backbone):
            name = f'{names[id(linear)]}.weight'
            wide = linear.in_features > linear.out_features
            update = self.factors.weight_update(blocks, along_input=wide)
            state_dict[name] = state_dict[name] + update
        return state_dict

    def _layers(
        self, backbone: nn.Module
    ) -> Iterator[tuple[nn.Linear, range]]:
        """Yield each linear layer and its blocks in the stack."""
        stages = transformer_stages(backbone, type(self).__name__)
        blocks = [block for stage in stages for block in stage.blocks]
        width, start = blocks[0].width, 0
        for block in blocks:
            for linears in block.linears.values():
                for linear in linears.values():
                    size = linear.in_features * linear.out_features
                    if block.width != width or size % width**2:
                        raise TypeError(
                            'FacT cannot be attached to '
                            f'{type(backbone).__name__}: its factors are '
                            'shared by all blocks, which must have one width '
                            'and an MLP that is a multiple of it'
                        )
                    stop = start + size // width**2
                    yield linear, range(start, stop)
                    start = stop


class _Update:
    """Forward hook; an object, so that a deep copy follows the copy."""

    def __init__(self, factors: nn.Module, blocks: range) -> None:
        self.factors = factors
        self.blocks = blocks

    def __call__(
        self, module: nn.Module, args: tuple[Tensor], out: Tensor
    ) -> Tensor:
        return out + self.factors(args[0], self.blocks)
