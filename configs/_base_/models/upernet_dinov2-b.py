"""UPerNet on DINOv2-B: a pyramid of strides 3.5 to 28 between them."""

_base_ = ['./upernet.py', '../backbones/dinov2-b.py']

model = dict(
    data_preprocessor=dict(
        # The crop size of the data set.
        size=(518, 518),
        # The backbone would pad other sizes itself, on one side, and the
        # head, which does not know, would stretch its map over the image.
        test_cfg=dict(size_divisor=14),
    ),
    backbone=dict(type='mmlowrank.TunedBackbone', backbone=_base_.vit),
    neck=dict(
        type='Feature2Pyramid',
        embed_dim=_base_.widths[0],
        rescales=[4, 2, 1, 0.5],
        # As in the heads.
        norm_cfg=dict(type='SyncBN'),
    ),
    decode_head=dict(in_channels=_base_.widths),
    auxiliary_head=dict(in_channels=_base_.widths[2]),
)
