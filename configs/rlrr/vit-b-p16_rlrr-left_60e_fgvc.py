r"""RLRR (left scale only) on ViT-B/16: one data set of FGVC.

Paper (table 6): top-1 accuracy 89.5, the mean of five data sets. Not run here.

    FGVC_NAME=NABirds python tools/train.py --amp \
        configs/rlrr/vit-b-p16_rlrr-left_60e_fgvc.py
"""

_base_ = [
    '_base_/fgvc.py',
    '../_base_/models/vit-b-p16.py',
    '../_base_/tuners/rlrr_cls.py',
]
work_dir = f'work_dirs/{{ fileBasenameNoExtension }}/{_base_.name}'
model = dict(
    backbone=dict(
        tuner=dict(
            _base_.tuner, branch_dropout=_base_.dropout, sides=('left',)
        )
    ),
    head=dict(num_classes=_base_.num_classes),
)
