"""AdamW for 800 iterations of batch 4, for methods that freeze the trunk."""

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    # fused: the same steps in one pass over the tensors; pays on a CPU.
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.02,
        by_epoch=False,
        begin=100,
        end=800,
    ),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=800)
test_cfg = dict(type='TestLoop')
randomness = dict(seed=0)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    # Two are kept: the older one serves a run killed while it saved.
    checkpoint=dict(
        type='mmlowrank.AdapterCheckpointHook',
        by_epoch=False,
        interval=200,
        max_keep_ckpts=2,
    ),
)
log_processor = dict(window_size=20, by_epoch=False)
