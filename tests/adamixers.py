"""The small AdaMixers that tests build."""

import torch
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn

STAGES, CLASSES, QUERIES = 3, 4, 7
LORS = dict(
    lors_adaptive=dict(rank=3, terms=[1, 2, 3]), lors_static=dict(rank=2)
)
# Name -> options of the decoder.
KINDS = {
    'plain': {},
    'LORS': LORS,
    'A': dict(lors_adaptive=LORS['lors_adaptive']),
    'T': dict(lors_static=LORS['lors_static']),
}


def config(**decoder) -> dict:
    """Return a detector whose queries are not as wide as its maps."""
    return dict(
        type='mmlowrank.AdaMixer',
        data_preprocessor=dict(
            type='DetDataPreprocessor', pad_size_divisor=32
        ),
        backbone=dict(
            type='ResNet', depth=18, base_channels=4, norm_eval=True
        ),
        neck=dict(
            type='mmlowrank.AdaMixerNeck',
            in_channels=[4, 8, 16, 32],
            out_channels=12,
            num_groups=3,
        ),
        queries=dict(
            type='mmlowrank.AdaMixerQueries',
            num_queries=QUERIES,
            embed_dims=16,
        ),
        decoder=dict(
            dict(
                type='mmlowrank.AdaMixerDecoder',
                num_classes=CLASSES,
                num_stages=STAGES,
                embed_dims=16,
                in_channels=12,
                groups=3,
                in_points=4,
                out_points=5,
                num_heads=2,
                ffn_channels=24,
            ),
            **decoder,
        ),
    )


def build(seed: int = 0, at_start: bool = False, **decoder) -> nn.Module:
    """Build it, unless ``at_start`` with the decoder off its start."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config(**decoder))
    for parameter in () if at_start else model.decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.train()  # the backbone's norms keep their statistics


def batch(
    model: nn.Module, objects: tuple[int, ...] = (3, 2), size: int = 64
) -> dict:
    """Return preprocessed random images with so many objects each."""
    data = demo_mm_inputs(
        len(objects),
        [[3, size, size]] * len(objects),
        num_items=list(objects),
        num_classes=CLASSES,
    )
    return model.data_preprocessor(data, True)


def sample(boxes, labels, shape=(64, 96), **meta) -> DetDataSample:
    """Return a data sample with these true boxes."""
    data = DetDataSample(metainfo=dict(img_shape=shape, **meta))
    data.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
    )
    return data
