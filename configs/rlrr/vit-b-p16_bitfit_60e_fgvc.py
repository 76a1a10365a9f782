r"""Bias (BitFit) on ViT-B/16: one data set of FGVC.

Paper (table 3): top-1 accuracy 88.4, the mean of five data sets. Not run here.

    FGVC_NAME=NABirds python tools/train.py --amp \
        configs/rlrr/vit-b-p16_bitfit_60e_fgvc.py
"""

_base_ = [
    '_base_/fgvc.py',
    '../_base_/models/vit-b-p16.py',
    '../_base_/tuners/bitfit_cls.py',
]
work_dir = f'work_dirs/{{ fileBasenameNoExtension }}/{_base_.name}'
model = dict(
    backbone=dict(tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes),
)
