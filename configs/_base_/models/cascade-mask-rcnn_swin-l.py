"""Cascade Mask R-CNN on Swin-L."""

_base_ = ['./cascade-mask-rcnn.py', '../backbones/swin-l.py']

model = dict(
    backbone=dict(_base_.swin, drop_path_rate=0.3),
    neck=dict(in_channels=_base_.widths),
)
