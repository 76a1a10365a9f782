"""UPerNet on the small Swin: 10 digits."""

_base_ = ['../../../_base_/models/upernet.py', 'swin-mini.py']

model = dict(
    data_preprocessor=dict(size=None, size_divisor=32),
    backbone=_base_.swin_mini,
    decode_head=dict(
        in_channels=[32, 64, 128, 256],
        channels=64,
        num_classes=10,
        norm_cfg=dict(type='BN'),
    ),
    auxiliary_head=dict(
        in_channels=128,
        channels=32,
        num_classes=10,
        norm_cfg=dict(type='BN'),
    ),
)
