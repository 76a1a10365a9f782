r"""Pre-train the small Swin as a classifier of single digits.

Plays the part that ImageNet-22k plays in the papers: every other config in
this folder starts from its last checkpoint. The backbone is mmpretrain's.

    python tools/train.py configs/quickstart/pretrain_swin-mini_digits.py
"""

_base_ = [
    '../_base_/models/classifier.py',
    '_base_/datasets/digits_cls.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=32, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8]),
        img_size=40,
        window_size=5,
        drop_path_rate=0.0,
        # As mmdet and mmseg do; else maps smaller than a window are refused.
        pad_small_map=True,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=256,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
data_preprocessor = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

optim_wrapper = dict(
    type='OptimWrapper',
    # Nothing is tuned here; it does not decay norms, biases and positions.
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
)
param_scheduler = dict(
    type='OneCycleLR',
    eta_max=1e-3,
    total_steps=20,
    by_epoch=True,
    convert_to_iter_based=True,
)
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=20)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed=0)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=7),
    checkpoint=dict(type='CheckpointHook', interval=4, max_keep_ckpts=2),
)
log_processor = dict(window_size=7)
# Where the other configs look for epoch_20.pth.
work_dir = 'work_dirs/quickstart/pretrain'
