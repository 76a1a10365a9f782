"""RetinaNet with FPN on stages 2 to 4 of Swin-L, 20 classes."""

_base_ = ['./detector.py', '../backbones/swin-l.py']

model = dict(
    type='RetinaNet',
    backbone=dict(
        _base_.swin,
        drop_path_rate=0.2,
        # The first stage is no output, so it has no output norm.
        out_indices=(1, 2, 3),
        # No frozen_stages: the tuner says what trains. The authors' later
        # public code freezes the patch embedding in its VOC runs, FULL
        # included; frozen_stages=0 does that in mmdet 3.
    ),
    neck=dict(
        type='FPN',
        in_channels=_base_.widths[1:],
        out_channels=256,
        start_level=0,
        add_extra_convs='on_input',
        num_outs=5,
    ),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=20,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(
            type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25
        ),
        loss_bbox=dict(type='L1Loss'),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        # Focal loss takes every anchor.
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
    ),
)
