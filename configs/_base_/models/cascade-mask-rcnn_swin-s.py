"""Cascade Mask R-CNN on Swin-S."""

_base_ = ['./cascade-mask-rcnn.py', '../backbones/swin-s.py']

model = dict(
    backbone=dict(_base_.swin, drop_path_rate=0.2),
    neck=dict(in_channels=_base_.widths),
)
