"""ViT-B/16 (AugReg) trained with mixup, CutMix and label smoothing."""

_base_ = './vit-b-p16-augreg.py'

model = dict(
    # Each batch gets one of the two, at even odds.
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
    head=dict(
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
        )
    ),
)
