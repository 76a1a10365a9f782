"""Small detectors of mmdet whose decoders are stacks of equal layers."""

import copy

import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from swins import ARGS
from torch import nn

DIMS, LAYERS, QUERIES, CLASSES = 16, 3, 8, 4
_DEFORMABLE = dict(embed_dims=DIMS, num_heads=2, num_levels=3, dropout=0.0)
_FFN = dict(embed_dims=DIMS, feedforward_channels=24, ffn_drop=0.0)
_ENCODER = dict(
    num_layers=1, layer_cfg=dict(self_attn_cfg=_DEFORMABLE, ffn_cfg=_FFN)
)
_ATTENTION = dict(embed_dims=DIMS, num_heads=2, dropout=0.0)
_COMMON = dict(
    backbone=dict(
        ARGS['mmdet'],
        type='SwinTransformer',
        window_size=4,
        drop_path_rate=0.0,
        out_indices=(1, 2, 3),
    ),
    neck=dict(
        type='ChannelMapper',
        in_channels=[32, 64, 128],
        kernel_size=1,
        out_channels=DIMS,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=4),
        num_outs=3,
    ),
    encoder=_ENCODER,
    decoder=dict(
        num_layers=LAYERS,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=_ATTENTION,
            cross_attn_cfg=_DEFORMABLE,
            ffn_cfg=_FFN,
        ),
        post_norm_cfg=None,
    ),
    num_queries=QUERIES,
    num_feature_levels=3,
    positional_encoding=dict(num_feats=DIMS // 2, normalize=True),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=QUERIES),
)


def _head(kind: str) -> dict:
    loss = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)
    return dict(type=kind, num_classes=CLASSES, embed_dims=DIMS, loss_cls=loss)


DETRS = {
    'DINO': dict(
        _COMMON,
        with_box_refine=True,
        as_two_stage=True,
        bbox_head=_head('DINOHead'),
        dn_cfg=dict(
            label_noise_scale=0.5,
            box_noise_scale=1.0,
            group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=4),
        ),
    ),
    'DeformableDETR': dict(_COMMON, bbox_head=_head('DeformableDETRHead')),
    'DETR': dict(
        {k: v for k, v in _COMMON.items() if k != 'num_feature_levels'},
        backbone=dict(_COMMON['backbone'], out_indices=(3,)),
        neck=dict(_COMMON['neck'], in_channels=[128], num_outs=1),
        encoder=dict(
            num_layers=1,
            layer_cfg=dict(self_attn_cfg=_ATTENTION, ffn_cfg=_FFN),
        ),
        decoder=dict(
            num_layers=LAYERS,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=_ATTENTION,
                cross_attn_cfg=_ATTENTION,
                ffn_cfg=_FFN,
            ),
        ),
        bbox_head=_head('DETRHead'),
    ),
}


def detector(kind: str, stacks: dict | None = None, **kwargs) -> nn.Module:
    """Build one: the stock model, or with shared stacks."""
    torch.manual_seed(0)
    # The stock models write into their configs.
    cfg = ConfigDict(copy.deepcopy(DETRS[kind]), type=kind, **kwargs)
    if stacks is not None:
        cfg.update(type='mmlowrank.StackSharedModel', model=kind)
        cfg.stacks = stacks
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def samples(count: int, size: int = 64) -> list[DetDataSample]:
    """Return data samples with two objects each."""
    found = []
    for index in range(count):
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(size, size), batch_input_shape=(size, size)
            )
        )
        boxes = [[4.0, 6.0, 30.0, 40.0], [20.0, 10.0, 60.0, 50.0 + index]]
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes), labels=torch.tensor([index, 2])
        )
        found.append(sample)
    return found
