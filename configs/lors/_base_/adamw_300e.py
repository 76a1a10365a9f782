"""AdamW for 300 epochs of batch 512 on one GPU: the recipe of DeiT."""

_base_ = '../../_base_/schedules/adamw_110e_cls.py'

optim_wrapper = dict(
    # DeiT: 5e-4 for each 512 images of a step.
    optimizer=dict(lr=5e-4, weight_decay=0.05),
    # Nothing is tuned here; norms, biases and positions do not decay.
    paramwise_cfg=dict(
        custom_keys=dict(_delete_=True, cls_token=dict(decay_mult=0.0))
    ),
)
param_scheduler = dict(
    epochs=300, warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5
)
auto_scale_lr = dict(base_batch_size=512)

train_cfg = dict(max_epochs=300, val_interval=10)
randomness = dict(seed=0)
default_hooks = dict(logger=dict(interval=20))
