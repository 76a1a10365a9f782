"""ConvNeXt of mmpretrain, which mmdet and mmseg use too.

One branch a block: a depthwise convolution, a norm, two pointwise layers.
Patches are merged in front of a stage; output norms read a stage and nothing
else.
"""

from typing import ClassVar

from torch import Tensor, nn

from ..registry import FAMILIES
from .anatomy import Block, Branch, Layer, Merging, Norm, Output, Stage, Tap
from .base import Family, last_of


@FAMILIES.register_module()
class ConvNeXt(Family):
    """ConvNeXt of mmpretrain."""

    title = 'ConvNeXt of mmpretrain'
    rows = ('stages.', 'downsample_layers.')
    hierarchical = True
    channels = 1
    lacks: ClassVar = {'prompts': 'it has maps and no tokens'}

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        if backbone.gap_before_final_norm:
            self.lacks['outputs'] = (
                'with gap_before_final_norm=True it pools before the norms'
            )

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = backbone.stages[0][0]
        return hasattr(block, 'pointwise_conv2') and hasattr(
            backbone, 'downsample_layers'
        )

    def build_stages(self) -> list[Stage]:
        stages = self.backbone.stages
        last = last_of(self.backbone.out_indices, len(stages))
        return [
            Stage(
                [self._block(block) for block in stage],
                self._merging(i + 1) if i < last else None,
            )
            for i, stage in enumerate(stages[: last + 1])
        ]

    @property
    def outputs(self) -> list[Output]:
        return [
            Output((i, len(stage.blocks) - 1), f'norm{i}')
            for i, stage in enumerate(self.stages)
            if i in self.backbone.out_indices
        ]

    @property
    def embedding(self) -> tuple[Layer | None, Norm | None]:
        stem = self.backbone.downsample_layers[0]
        return self.layer(stem[0]), self.norm(stem[1], channels=1)

    def unused(self) -> set[str]:
        stem = self.backbone.downsample_layers[0]
        used = {f'{self.path(stem)}.{n}' for n, _ in stem.named_parameters()}
        return super().unused() - used

    def _block(self, block: nn.Module) -> Block:
        linear = block.linear_pw_conv
        return Block(
            module=block,
            width=block.depthwise_conv.in_channels,
            branches=dict(
                ffn=Branch(
                    stream=Tap(block.depthwise_conv, 'in', 1),
                    end=Tap(block.drop_path, 'in', 1),
                    output=Tap(block.drop_path, 'out', 1),
                )
            ),
            linears=dict(
                ffn=dict(
                    fc1=self.layer(block.pointwise_conv1, enters=True),
                    fc2=self.layer(block.pointwise_conv2),
                )
            ),
            norms=dict(
                ffn=self.norm(block.norm, channels=-1 if linear else 1)
            ),
        )

    def _merging(self, i: int) -> Merging:
        norm, conv = layers = self.backbone.downsample_layers[i]
        return Merging(
            layers,
            _run,
            norm=self.norm(norm, channels=1),
            reduction=self.layer(conv),
        )


def _run(module: nn.Module, tokens: Tensor, args: tuple) -> Tensor:
    return module.forward(tokens)
