"""Cascade Mask R-CNN on Swin-S."""

_base_ = './cascade-mask-rcnn_swin-t.py'

model = dict(
    backbone=dict(
        depths=[2, 2, 18, 2],
        init_cfg=dict(
            checkpoint='https://github.com/SwinTransformer/storage/releases/'
            'download/v1.0.8/swin_small_patch4_window7_224_22k.pth'
        ),
    )
)
