r"""Pre-train the small ViT as a classifier of single digits.

The backbone is mmpretrain's. Needs the digits (see README.md).

    python tools/train.py configs/quickstart/pretrain_vit-mini_digits.py
"""

_base_ = ['pretrain_swin-mini_digits.py']

model = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=64, num_layers=6, num_heads=4, feedforward_channels=256
        ),
        img_size=40,
        patch_size=8,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=64),
)
# A ViT learns by itself what is near to what: more epochs than the Swin.
param_scheduler = dict(eta_max=2e-3, total_steps=60)
train_cfg = dict(max_epochs=60, val_interval=60)
default_hooks = dict(checkpoint=dict(interval=10))
# Where the other configs look for epoch_60.pth.
work_dir = 'work_dirs/quickstart/pretrain-vit'
