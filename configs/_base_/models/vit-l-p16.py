"""ViT-L/16 classifier at 224 x 224, pre-trained on ImageNet-21k."""

_base_ = './vit-b-p16.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='l',
            init_cfg=dict(
                checkpoint='google-vit:https://storage.googleapis.com/'
                'vit_models/imagenet21k/ViT-L_16.npz'
            ),
        )
    ),
    head=dict(in_channels=1024),
)
