r"""RLRR on ViT-B/16 (AugReg): Oxford Flowers of FGVC.

Paper (table 3): top-1 accuracy 99.6. Not run here.

    python tools/train.py --amp \
        configs/rlrr/vit-b-p16-augreg_rlrr_110e_fgvc-flowers.py
"""

_base_ = [
    '_base_/fgvc-aug_flowers.py',
    '../_base_/models/vit-b-p16-augreg_mixup.py',
    '../_base_/tuners/rlrr_cls.py',
]
model = dict(
    backbone=dict(tuner=dict(_base_.tuner, branch_dropout=_base_.dropout)),
    head=dict(num_classes=_base_.num_classes),
)
data_preprocessor = dict(num_classes=_base_.num_classes)
