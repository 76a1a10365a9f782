"""Visual prompt tuning of a frozen ViT (ECCV 2022), a baseline of RLRR."""

from functools import partial

import torch
from torch import Tensor, nn

from ..families import Family
from ..nn.vpt import Prompts
from ..registry import TUNERS
from .base import Tuner


@TUNERS.register_module()
class VPT(Tuner):
    """Prompt tokens behind the class token of a ViT.

    Outputs of the backbone have no prompts in them: between layers they are
    taken out and carried along.

    Args:
        tokens: Prompts of a layer (T). The RLRR paper compares with counts
            that VPT's authors chose for each data set.
        deep: Whether every layer has prompts of its own (VPT-Deep) or only
            the first (VPT-Shallow).
    """

    needs = ('prompts',)
    cannot_merge = (
        'prompts are further tokens that attention reads: no weight of the '
        'stock model computes the same'
    )

    def __init__(
        self,
        tokens: int = 50,
        deep: bool = True,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.deep = deep
        self._carried: Tensor | None = None

    def build(self, trunk: Family) -> None:
        blocks, (projection, _) = trunk.blocks, trunk.embedding
        self._front = trunk.prefix
        self.prompts = Prompts(
            blocks[0].width,
            self.tokens,
            len(blocks) if self.deep else 1,
            patch_values=projection.shape[1:].numel(),
        )
        for i, block in enumerate(blocks):
            block.module.register_forward_pre_hook(partial(self._insert, i))
            block.module.register_forward_hook(self._take_out)
        # Also when the forward fails.
        trunk.backbone.register_forward_hook(self._clear, always_call=True)

    def _insert(self, i: int, module: nn.Module, args: tuple) -> tuple:
        x = args[0]
        prompts = self._carried
        if self.deep or i == 0:
            prompts = self.prompts(i, x.shape[0]).to(x.dtype)
        front = self._front
        x = torch.cat([x[:, :front], prompts, x[:, front:]], 1)
        return (x, *args[1:])

    def _take_out(
        self, module: nn.Module, args: tuple[Tensor], out: Tensor
    ) -> Tensor:
        front = self._front
        back = front + self.tokens
        if not self.deep:
            self._carried = out[:, front:back]
        return torch.cat([out[:, :front], out[:, back:]], 1)

    def _clear(self, *_: object) -> None:
        self._carried = None
