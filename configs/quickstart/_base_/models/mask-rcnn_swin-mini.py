"""Mask R-CNN on the small Swin: the Faster R-CNN plus a mask head."""

_base_ = 'faster-rcnn_swin-mini.py'

model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(pad_mask=True),
    roi_head=dict(
        mask_roi_extractor=_base_.roi_extractor,
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=2,
            roi_feat_size=7,
            in_channels=64,
            conv_out_channels=64,
            num_classes=10,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
        ),
    ),
)
