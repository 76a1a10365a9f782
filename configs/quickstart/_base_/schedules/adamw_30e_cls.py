"""AdamW for 30 epochs of batch 64, for methods that freeze the trunk."""

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.05),
)
param_scheduler = dict(
    type='mmlowrank.TimmCosineLR', epochs=30, warmup_epochs=3, warmup_lr=1e-5
)
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=30)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed=0)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=7),
    checkpoint=dict(
        type='mmlowrank.AdapterCheckpointHook', interval=10, max_keep_ckpts=2
    ),
)
log_processor = dict(window_size=7)
