"""ARC in a frozen ViT or Swin (NeurIPS 2023), a baseline of RLRR."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..nn import arc
from ..registry import TUNERS
from .anatomy import transformer_stages
from .base import CannotMerge, Tuner


@TUNERS.register_module()
class ARC(Tuner):
    """Re-composed adapters in front of attention and MLP of every block.

    The projections are shared by the blocks of one width: by all of a ViT,
    by those of one stage of a Swin. The adapters read what ``qkv`` and
    ``fc1`` read.

    Args:
        mid_channels: Width of the bottleneck.
    """

    def __init__(
        self,
        mid_channels: int = 50,
    ) -> None:
        super().__init__()
        self.mid_channels = mid_channels

    def build(self, backbone: nn.Module) -> None:
        self.stages = nn.ModuleList(
            nn.ModuleDict(
                {
                    site: arc.ARCAdapters(
                        stage.blocks[0].width,
                        len(stage.blocks),
                        self.mid_channels,
                    )
                    for site in ('attn', 'ffn')
                }
            )
            for stage in transformer_stages(backbone, type(self).__name__)
        )
        for linear, adapters, layer in self._sites(backbone):
            linear.register_forward_pre_hook(_Before(adapters, layer))

    @torch.no_grad()
    def merge(self) -> dict[str, Tensor]:
        """Return the stock state dict with the adapters in its weights.

        Raises:
            CannotMerge: If a layer has no bias to take the adapter's.
        """
        state_dict = self.stock_state_dict()
        names = {id(m): name for name, m in self.backbone.named_modules()}
        for linear, adapters, layer in self._sites(self.backbone):
            name = names[id(linear)]
            if linear.bias is None:
                raise CannotMerge(
                    'ARC cannot be merged into a stock checkpoint, because '
                    f'{name} has no bias to take that of the adapter before '
                    'it. Build the backbone with qkv_bias=True or ship the '
                    'tuned model with mmlowrank'
                )
            weight, bias = adapters.fold(linear.weight, linear.bias, layer)
            state_dict[f'{name}.weight'] = weight
            state_dict[f'{name}.bias'] = bias
        return state_dict

    def _sites(
        self, backbone: nn.Module
    ) -> Iterator[tuple[nn.Linear, arc.ARCAdapters, int]]:
        """Yield each adapted layer, its adapters and its index there."""
        stages = transformer_stages(backbone, type(self).__name__)
        for adapters, stage in zip(self.stages, stages, strict=True):
            for layer, block in enumerate(stage.blocks):
                for site, name in (('attn', 'qkv'), ('ffn', 'fc1')):
                    yield block.linears[site][name], adapters[site], layer


class _Before:
    """Forward pre-hook; an object, so that a deep copy follows the copy."""

    def __init__(self, adapters: nn.Module, layer: int) -> None:
        self.adapters = adapters
        self.layer = layer

    def __call__(
        self, module: nn.Module, args: tuple[Tensor]
    ) -> tuple[Tensor]:
        return (self.adapters(args[0], self.layer),)
