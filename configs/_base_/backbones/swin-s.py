"""Swin-S, pre-trained on ImageNet-22k with windows of 7 x 7."""

_base_ = './swin-t.py'

swin = dict(
    depths=[2, 2, 18, 2],
    init_cfg=dict(
        checkpoint='https://github.com/SwinTransformer/storage/releases/'
        'download/v1.0.8/swin_small_patch4_window7_224_22k.pth'
    ),
)
