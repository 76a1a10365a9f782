"""AdamW for 36 epochs of COCO, steps at 24 and 33."""

_base_ = './adamixer_1x_coco.py'

param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500
    ),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=36,
        milestones=[24, 33],
        gamma=0.1,
    ),
]
train_cfg = dict(max_epochs=36)
