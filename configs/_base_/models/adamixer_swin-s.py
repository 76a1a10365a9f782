"""AdaMixer on Swin-S, pre-trained on ImageNet-1k."""

_base_ = ['./adamixer_r50.py', '../backbones/swin-s.py']

model = dict(
    backbone=dict(
        _base_.swin,
        _delete_=True,
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/'
            'download/v1.0.0/swin_small_patch4_window7_224.pth',
        ),
    ),
    neck=dict(in_channels=_base_.widths),
)
