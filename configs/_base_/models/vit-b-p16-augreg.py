"""ViT-B/16 classifier, pre-trained on ImageNet-21k with augmentation.

"How to train your ViT?" (AugReg). The authors of RLRR do not say which of
its files they used; this is the one that timm calls augreg_in21k.
"""

_base_ = './vit-b-p16.py'

model = dict(
    backbone=dict(
        backbone=dict(
            init_cfg=dict(
                checkpoint='google-vit:https://storage.googleapis.com/'
                'vit_models/augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-'
                'wd_0.1-do_0.0-sd_0.0.npz'
            )
        )
    )
)
