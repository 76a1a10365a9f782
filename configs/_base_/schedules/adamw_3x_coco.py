"""AdamW for 36 epochs of COCO, 8 GPUs x 2 images."""

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05
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
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500
    ),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=36,
        milestones=[27, 33],
        gamma=0.1,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=36, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# The hooks that depend on the loop; mmengine adds its other default hooks.
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(
        type='mmlowrank.AdapterCheckpointHook', interval=1, max_keep_ckpts=3
    ),
)
log_processor = dict(window_size=50, by_epoch=True)
