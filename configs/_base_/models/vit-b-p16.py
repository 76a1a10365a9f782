"""ViT-B/16 classifier at 224 x 224, pre-trained on ImageNet-21k."""

_base_ = 'classifier.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmlowrank.TunedBackbone',
        backbone=dict(
            type='VisionTransformer',
            arch='b',
            img_size=224,
            patch_size=16,
            init_cfg=dict(
                type='Pretrained',
                checkpoint='google-vit:https://storage.googleapis.com/'
                'vit_models/imagenet21k/ViT-B_16.npz',
            ),
        ),
    ),
    # Starts at zero.
    head=dict(type='VisionTransformerClsHead', in_channels=768),
)
data_preprocessor = dict(
    mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True
)
