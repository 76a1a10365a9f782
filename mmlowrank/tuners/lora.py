"""LoRA in a frozen trunk, a baseline of E3VA and RLRR."""

import torch
from torch import Tensor, nn

from ..nn import lora
from ..registry import TUNERS
from .anatomy import transformer_stages
from .base import Tuner


@TUNERS.register_module()
class LoRA(Tuner):
    """Low-rank updates of the fused qkv projection of every block.

    Args:
        rank: Rank of the update of each target.
        alpha: Scale of the update times ``rank``. Defaults to ``rank``;
            ``alpha=1`` is what the E3VA authors' later public code does.
        targets: Some of ``'q'``, ``'k'``, ``'v'``.
    """

    def __init__(
        self,
        rank: int = 64,
        alpha: float | None = None,
        targets: tuple[str, ...] = ('q', 'v'),
    ) -> None:
        super().__init__()
        self.options = dict(rank=rank, alpha=alpha, targets=targets)

    def build(self, backbone: nn.Module) -> None:
        self.stages = nn.ModuleList()
        for stage in transformer_stages(
            backbone, needed_by=type(self).__name__
        ):
            blocks = nn.ModuleList()
            for block in stage.blocks:
                update = lora.LoRAUpdate(block.width, **self.options)
                block.attention.qkv.register_forward_hook(_Update(update))
                blocks.append(update)
            self.stages.append(blocks)

    def updates(self) -> dict[str, lora.LoRAUpdate]:
        """Return path of each qkv in the backbone -> its update."""
        names = {id(m): name for name, m in self.backbone.named_modules()}
        stages = transformer_stages(
            self.backbone, needed_by=type(self).__name__
        )
        return {
            names[id(block.attention.qkv)]: update
            for updates, stage in zip(self.stages, stages, strict=True)
            for update, block in zip(updates, stage.blocks, strict=True)
        }

    @torch.no_grad()
    def merge(self) -> dict[str, Tensor]:
        """Return the stock state dict with the updates in its weights."""
        state_dict = self.stock_state_dict()
        for path, update in self.updates().items():
            name = f'{path}.weight'
            state_dict[name] = state_dict[name] + update.weight_update()
        return state_dict


class _Update:
    """Forward hook; an object, so that a deep copy follows the copy."""

    def __init__(self, update: nn.Module) -> None:
        self.update = update

    def __call__(
        self, module: nn.Module, args: tuple[Tensor], out: Tensor
    ) -> Tensor:
        return self.update(args[0], out)
