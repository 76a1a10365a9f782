r"""RLRR (right scale only) on ViT-B/16: Oxford Flowers of FGVC.

Paper (table 6): top-1 accuracy 99.4. Not run here.

    python tools/train.py --amp \
        configs/rlrr/vit-b-p16_rlrr-right_60e_fgvc-flowers.py
"""

_base_ = [
    '_base_/fgvc_flowers.py',
    '../_base_/models/vit-b-p16.py',
    '../_base_/tuners/rlrr-right_cls.py',
]
model = dict(
    backbone=dict(tuner=dict(_base_.tuner, branch_dropout=_base_.dropout)),
    head=dict(num_classes=_base_.num_classes),
)
