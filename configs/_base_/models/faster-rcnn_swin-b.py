"""Faster R-CNN with FPN on Swin-B, 20 classes."""

_base_ = ['./faster-rcnn.py', '../backbones/swin-b.py']

model = dict(
    backbone=dict(_base_.swin, drop_path_rate=0.2),
    neck=dict(in_channels=_base_.widths),
)
