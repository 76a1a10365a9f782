"""AdamW for 36 epochs of COCO, with warm-up and decay for Swin."""

_base_ = './adamixer_3x_coco.py'

# What the original does not decay on Swin: position tables and what has
# 'norm' in its name. It decays the norms of the towers and of the neck.
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        bias_decay_mult=1.0,
        custom_keys={
            'cls_tower.1': dict(decay_mult=1.0),
            'reg_tower.1': dict(decay_mult=1.0),
            'neck.norm': dict(decay_mult=1.0),
        },
    )
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000
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
