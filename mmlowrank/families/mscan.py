"""MSCAN (SegNeXt) of mmseg: convolutional attention, BatchNorm in the blocks.

Branches are maps, what goes from block to block are tokens.
"""

from typing import ClassVar

from torch import nn

from ..registry import FAMILIES
from .anatomy import Block, Stage
from .base import Family


@FAMILIES.register_module()
class MSCAN(Family):
    """MSCAN of mmseg."""

    title = 'MSCAN of mmseg'
    hierarchical = True
    lacks: ClassVar = {
        'prompts': 'it has maps and no tokens',
        'streams': 'its norms may be replaced when a run begins',
        'outputs': 'its branches are maps, but its stream is not',
    }

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        return hasattr(backbone.block1[0].attn, 'spatial_gating_unit')

    def build_stages(self) -> list[Stage]:
        count = self.backbone.num_stages
        stages = [
            getattr(self.backbone, f'block{i + 1}') for i in range(count)
        ]
        return [Stage([self._block(b) for b in stage]) for stage in stages]

    @property
    def output_norms(self) -> list[str]:
        return [f'norm{i + 1}' for i in range(self.backbone.num_stages)]

    def _block(self, block: nn.Module) -> Block:
        attn, mlp = block.attn, block.mlp
        return self.block_of(
            block,
            starts=dict(attn=block.norm1, ffn=block.norm2),
            ends=dict(attn=block.drop_path, ffn=block.drop_path),
            linears=dict(
                attn=dict(
                    proj_1=self.layer(attn.proj_1, enters=True),
                    proj_2=self.layer(attn.proj_2),
                ),
                ffn=dict(
                    fc1=self.layer(mlp.fc1, enters=True),
                    fc2=self.layer(mlp.fc2),
                ),
            ),
            channels=1,
            # Norms are replaced where SyncBN is turned into BN.
            begins=dict(attn=attn, ffn=mlp),
        )
