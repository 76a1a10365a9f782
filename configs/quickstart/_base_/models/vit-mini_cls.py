"""Classifier of single digits on the pre-trained ViT of 0.3 M parameters."""

_base_ = '../../../_base_/models/classifier.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmlowrank.TunedBackbone',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(
                embed_dims=64,
                num_layers=6,
                num_heads=4,
                feedforward_channels=256,
            ),
            img_size=40,
            patch_size=8,
            init_cfg=dict(
                type='Pretrained',
                # DIGIT_VIT in the environment names another checkpoint.
                checkpoint=r"""{{$DIGIT_VIT:work_dirs/quickstart/pretrain-vit/epoch_60.pth}}""",
                prefix='backbone',
            ),
        ),
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=64),
)
data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
