r"""RLRR (no residual) on ViT-B/16: NABirds of FGVC.

Paper (table 6): top-1 accuracy 83.9. Not run here.

    python tools/train.py --amp \
        configs/rlrr/vit-b-p16_rlrr-no-residual_60e_fgvc-nabirds.py
"""

_base_ = [
    '_base_/fgvc_nabirds.py',
    '../_base_/models/vit-b-p16.py',
    '../_base_/tuners/rlrr-no-residual_cls.py',
]
model = dict(
    backbone=dict(tuner=dict(_base_.tuner, branch_dropout=_base_.dropout)),
    head=dict(num_classes=_base_.num_classes),
)
