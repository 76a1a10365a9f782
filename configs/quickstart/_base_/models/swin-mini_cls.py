"""Classifier of single digits on the pre-trained Swin of 2.3 M parameters."""

_base_ = '../../../_base_/models/classifier.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmlowrank.TunedBackbone',
        backbone=dict(
            type='SwinTransformer',
            arch=dict(
                embed_dims=32, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8]
            ),
            img_size=40,
            window_size=5,
            drop_path_rate=0.0,
            # As mmdet and mmseg do; else maps smaller than a window are
            # refused.
            pad_small_map=True,
            init_cfg=dict(
                type='Pretrained',
                # DIGIT_SWIN in the environment names another checkpoint.
                checkpoint=r"""{{$DIGIT_SWIN:work_dirs/quickstart/pretrain/epoch_20.pth}}""",
                prefix='backbone',
            ),
        ),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=256),
)
data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
