"""AdamW for 160k iterations of ADE20K, 8 GPUs x 2 images."""

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    optimizer=dict(
        type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01
    ),
    # As in the public code of LoRand's first author: what has 'norm' in its
    # name does not decay, nor do position tables. Biases decay, and so do the
    # batch norms of the heads, whose name is 'bn'.
    paramwise_cfg=dict(
        bias_decay_mult=1.0, custom_keys={'.bn.': dict(decay_mult=1.0)}
    ),
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500
    ),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=1500,
        end=160000,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=160000, val_interval=16000
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# The hooks that depend on the loop; mmengine adds its other default hooks.
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(
        type='mmlowrank.AdapterCheckpointHook',
        by_epoch=False,
        interval=16000,
        max_keep_ckpts=3,
    ),
)
log_processor = dict(window_size=50, by_epoch=False)
