"""AdamW for 300 epochs of batch 512 on one GPU: the recipe of DeiT."""

optim_wrapper = dict(
    type='OptimWrapper',
    # Nothing is tuned here; it does not decay norms, biases and positions.
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    # DeiT: 5e-4 for each 512 images of a step.
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={'cls_token': dict(decay_mult=0.0)}),
)
param_scheduler = dict(
    type='mmlowrank.TimmCosineLR',
    epochs=300,
    warmup_epochs=5,
    warmup_lr=1e-6,
    min_lr=1e-5,
)
auto_scale_lr = dict(enable=False, base_batch_size=512)

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=10)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed=0)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20),
    # Two, because the older one serves a run that is killed while it saves.
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=2),
)
