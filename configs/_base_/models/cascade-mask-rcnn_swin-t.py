"""Cascade Mask R-CNN on Swin-T."""

_base_ = ['./cascade-mask-rcnn.py', '../backbones/swin-t.py']

model = dict(
    backbone=dict(_base_.swin, drop_path_rate=0.2),
    neck=dict(in_channels=_base_.widths),
)
