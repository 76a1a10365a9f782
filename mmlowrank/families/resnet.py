"""ResNets of the three frameworks: blocks that add up their paths themselves.

No module stands at the end of a branch, so methods of that kind are not
defined. Weights are those of convolutions.
"""

from typing import ClassVar

from torch import nn

from ..registry import FAMILIES
from .anatomy import Block, Layer, Norm, Stage
from .base import Family, last_of

_PARTS = ('conv', 'norm')


@FAMILIES.register_module()
class ResNet(Family):
    """ResNet of mmdet, mmseg or mmpretrain, and what derives from it."""

    title = 'ResNet'
    hierarchical = True
    channels = 1
    lacks: ClassVar = dict.fromkeys(
        ('branches', 'streams', 'maps', 'entries', 'outputs'),
        'its blocks add up their paths themselves, with no module at the end '
        'of a branch',
    ) | {'prompts': 'it has maps and no tokens'}

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        block = getattr(backbone, backbone.res_layers[0])[0]
        return hasattr(block, 'conv1') and hasattr(block, 'norm1')

    def build_stages(self) -> list[Stage]:
        layers = self.backbone.res_layers
        # Of mmpretrain's stage numbers, which start at 0 as well.
        last = last_of(self.backbone.out_indices, len(layers))
        self.rows = tuple(f'{name}.' for name in layers[last + 1 :])
        return [
            Stage([self._block(b) for b in getattr(self.backbone, name)])
            for name in layers[: last + 1]
        ]

    @property
    def embedding(self) -> tuple[Layer | None, Norm | None]:
        if getattr(self.backbone, 'deep_stem', False):
            return None, None
        norm = self.norm(self.backbone.norm1, channels=1)
        return self.layer(self.backbone.conv1, behind=norm), norm

    def _block(self, block: nn.Module) -> Block:
        pairs = {
            f'conv{i}': (
                getattr(block, f'conv{i}'),
                getattr(block, f'norm{i}'),
            )
            for i in (1, 2, 3)
            if hasattr(block, f'conv{i}')
        }
        if block.downsample is not None:
            pairs['downsample'] = block.downsample[-2:]
        norms = {n: self.norm(m, channels=1) for n, (_, m) in pairs.items()}
        return Block(
            module=block,
            width=block.conv1.in_channels,
            linears=dict(
                conv={
                    name: self.layer(conv, behind=norms[name])
                    for name, (conv, _) in pairs.items()
                    if isinstance(conv, nn.Conv2d) and conv.groups == 1
                }
            ),
            norms=norms,
        )
