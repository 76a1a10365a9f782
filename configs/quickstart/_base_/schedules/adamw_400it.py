"""AdamW for 400 iterations of batch 4, for methods that freeze the trunk."""

_base_ = 'adamw_800it.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.02,
        by_epoch=False,
        begin=100,
        end=400,
    ),
]
train_cfg = dict(max_iters=400)
