"""AdamW for 800 iterations of batch 4, and boxes as the only metric."""

_base_ = '../../quickstart/_base_/schedules/adamw_800it.py'

optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
    # Pre-trained weights move less than the new neck and transformer.
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.5)}),
)
