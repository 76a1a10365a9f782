"""AdamW for 110 epochs of batch 32 on one GPU: a cosine over 100 and a tail.

The schedule of the RLRR authors' VTAB-1k code; rate and decay come from who
inherits.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    optimizer=dict(
        type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=5e-5
    ),
    # The authors' code decays the scales of RLRR and the weight of the head,
    # as here by default, and the scale and shift behind a ViT's patches.
    paramwise_cfg=dict(custom_keys={'tuner.patch.': dict(decay_mult=1.0)}),
)
param_scheduler = dict(
    type='mmlowrank.TimmCosineLR',
    epochs=100,
    warmup_epochs=10,
    warmup_lr=1e-7,
    min_lr=1e-8,
)
auto_scale_lr = dict(enable=False, base_batch_size=32)

train_cfg = dict(by_epoch=True, max_epochs=110, val_interval=1)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed=42)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10),
    # Two, because the older one serves a run that is killed while it saves.
    checkpoint=dict(
        type='mmlowrank.AdapterCheckpointHook', interval=10, max_keep_ckpts=2
    ),
)
