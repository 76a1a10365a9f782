"""Mask R-CNN on DINOv2-B: a pyramid of strides 3.5 to 28, then FPN."""

_base_ = ['./mask-rcnn.py', '../backbones/dinov2-b.py']

# As in ViTDet. Batch norm would take its statistics of two images.
norm_cfg = dict(type='mmpretrain.LN2d', eps=1e-6)
# 14 / 4, 14 / 2, 14 and 14 * 2; FPN adds 14 * 4.
strides = [3.5, 7, 14, 28]

model = dict(
    # So that the pyramid's last map, half as large as those of the backbone,
    # covers the whole image.
    data_preprocessor=dict(pad_size_divisor=28),
    backbone=dict(type='mmlowrank.TunedBackbone', backbone=_base_.vit),
    # A list is built as a sequence.
    neck=[
        dict(
            type='mmseg.Feature2Pyramid',
            embed_dim=_base_.widths[0],
            rescales=[4, 2, 1, 0.5],
            norm_cfg=norm_cfg,
        ),
        dict(
            type='FPN',
            in_channels=_base_.widths,
            out_channels=256,
            num_outs=5,
            norm_cfg=norm_cfg,
        ),
    ],
    rpn_head=dict(
        anchor_generator=dict(
            strides=[*strides, 56],
            # Times 8: anchors of 32 to 512 pixels, as with other backbones.
            base_sizes=[4, 8, 16, 32, 64],
        )
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=strides),
        mask_roi_extractor=dict(featmap_strides=strides),
    ),
)
