"""Swin-B classifier at 224 x 224, pre-trained on ImageNet-22k."""

_base_ = ['classifier.py', '../backbones/swin-b.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmlowrank.TunedBackbone',
        convert_weights=True,
        # As in the authors' code.
        stochastic_trunk=True,
        backbone=dict(
            type='SwinTransformer',
            arch='base',
            img_size=224,
            drop_path_rate=0.1,
            init_cfg=_base_.swin.init_cfg,
        ),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        in_channels=_base_.widths[-1],
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
    ),
)
# Those of its pre-training.
data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
