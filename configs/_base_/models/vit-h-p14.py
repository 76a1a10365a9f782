"""ViT-H/14 classifier at 224 x 224, pre-trained on ImageNet-21k."""

_base_ = './vit-b-p16.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='h',
            patch_size=14,
            init_cfg=dict(
                checkpoint='google-vit:https://storage.googleapis.com/'
                'vit_models/imagenet21k/ViT-H_14.npz'
            ),
        )
    ),
    head=dict(in_channels=1280),
)
