"""Faster R-CNN on a Swin of 2.3 M parameters, for scenes of 160 pixels."""

_base_ = ['../../../_base_/models/faster-rcnn.py', 'swin-mini.py']

roi_extractor = dict(
    type='SingleRoIExtractor',
    roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
    out_channels=64,
    featmap_strides=[4, 8, 16, 32],
    # The default of 56 would send every digit to the finest map.
    finest_scale=14,
)

model = dict(
    backbone=_base_.swin_mini,
    neck=dict(
        in_channels=[32, 64, 128, 256],
        out_channels=64,
        num_outs=4,
        # Normalised, RoI features leave "all is background" sooner.
        norm_cfg=dict(type='GN', num_groups=8),
    ),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(
            # Digits are 22 to 40 pixels high; anchors start at 6 x 4 pixels.
            scales=[6],
            ratios=[1.0, 1.7],
            strides=[4, 8, 16, 32],
        ),
    ),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        bbox_head=dict(in_channels=64, fc_out_channels=128, num_classes=10),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(
            assigner=dict(match_low_quality=True),
            # Of 32 RoIs, a quarter would be too few positives to learn from.
            sampler=dict(num=32, pos_fraction=0.5),
            mask_size=14,
        ),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(mask_thr_binary=0.5),
    ),
)
