"""Where the parts of a backbone are, one family a file.

The only room that names attributes of stock backbones.
"""

from .anatomy import Block, Branch, Layer, Merging, Norm, Output, Stage, Tap
from .base import PARTS, Family
from .beit import BEiT
from .convnext import ConvNeXt
from .deit3 import DeiT3
from .eva02 import EVA02
from .finding import family_of
from .mit import MiT
from .mmseg_vit import MMSegViT
from .mscan import MSCAN
from .resnet import ResNet
from .sam import SAM
from .swin import Swin
from .swin_v2 import SwinV2
from .timm import TimmViT
from .vit import ViT

__all__ = [
    'EVA02',
    'MSCAN',
    'PARTS',
    'SAM',
    'BEiT',
    'Block',
    'Branch',
    'ConvNeXt',
    'DeiT3',
    'Family',
    'Layer',
    'MMSegViT',
    'Merging',
    'MiT',
    'Norm',
    'Output',
    'ResNet',
    'Stage',
    'Swin',
    'SwinV2',
    'Tap',
    'TimmViT',
    'ViT',
    'family_of',
]
