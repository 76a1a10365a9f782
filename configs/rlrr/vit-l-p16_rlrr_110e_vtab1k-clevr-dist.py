r"""RLRR on ViT-L/16: Clevr-Dist of VTAB-1k.

Paper (table 4): no number for this row; Structured mean 61.9. Not run here.

    python tools/train.py --amp \
        configs/rlrr/vit-l-p16_rlrr_110e_vtab1k-clevr-dist.py
"""

_base_ = [
    '_base_/vtab1k_clevr-dist.py',
    '../_base_/models/vit-l-p16.py',
    '../_base_/tuners/rlrr_cls.py',
]
model = dict(
    backbone=dict(tuner=dict(_base_.tuner, branch_dropout=_base_.dropout)),
    head=dict(num_classes=_base_.num_classes),
)
