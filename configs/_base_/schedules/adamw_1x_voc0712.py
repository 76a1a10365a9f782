"""AdamW for 4 epochs of VOC 07+12 repeated 3 times, 8 GPUs x 2 images."""

# LoRand prints no learning rate, only "8 V100". The rate is that of the VOC
# logs of the authors' later public code, which took 2 images per step in
# total (adamw_1x-2img_voc0712.py, for E3VA). These 16 images per step keep it,
# which leaves an eighth of the steps; whether a higher rate serves 16 images
# better is not known.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05
    ),
    # As in the public code of LoRand's first author: norms and position tables
    # do not decay, biases do.
    paramwise_cfg=dict(bias_decay_mult=1.0),
)
# No warm-up, as in that log.
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=4,
        milestones=[3],
        gamma=0.1,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# The hooks that depend on the loop; mmengine adds its other default hooks.
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='mmlowrank.AdapterCheckpointHook', interval=1),
)
log_processor = dict(window_size=50, by_epoch=True)
