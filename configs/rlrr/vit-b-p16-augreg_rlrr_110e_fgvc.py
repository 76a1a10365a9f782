r"""RLRR on ViT-B/16 (AugReg): one data set of FGVC.

Paper (table 3): top-1 accuracy 91.0, the mean of five data sets. Not run here.

    FGVC_NAME=NABirds python tools/train.py --amp \
        configs/rlrr/vit-b-p16-augreg_rlrr_110e_fgvc.py
"""

_base_ = [
    '_base_/fgvc-aug.py',
    '../_base_/models/vit-b-p16-augreg_mixup.py',
    '../_base_/tuners/rlrr_cls.py',
]
work_dir = f'work_dirs/{{ fileBasenameNoExtension }}/{_base_.name}'
model = dict(
    backbone=dict(tuner=dict(_base_.tuner, branch_dropout=_base_.dropout)),
    head=dict(num_classes=_base_.num_classes),
)
data_preprocessor = dict(num_classes=_base_.num_classes)
