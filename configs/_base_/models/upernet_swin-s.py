"""UPerNet on Swin-S."""

_base_ = ['./upernet.py', '../backbones/swin-s.py']

model = dict(
    backbone=dict(_base_.swin, drop_path_rate=0.3),
    decode_head=dict(in_channels=_base_.widths),
    auxiliary_head=dict(in_channels=_base_.widths[2]),
)
