r"""RLRR on ViT-B/16: NABirds of FGVC.

Paper (table 3): top-1 accuracy 84.7. Not run here.

    python tools/train.py --amp \
        configs/rlrr/vit-b-p16_rlrr_60e_fgvc-nabirds.py
"""

_base_ = [
    '_base_/fgvc_nabirds.py',
    '../_base_/models/vit-b-p16.py',
    '../_base_/tuners/rlrr_cls.py',
]
model = dict(
    backbone=dict(tuner=dict(_base_.tuner, branch_dropout=_base_.dropout)),
    head=dict(num_classes=_base_.num_classes),
)
