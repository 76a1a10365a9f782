r"""RLRR on ViT-H/14: DMLab of VTAB-1k.

Paper (table 4): no number for this row; Structured mean 59.0. Not run here.

    python tools/train.py --amp \
        configs/rlrr/vit-h-p14_rlrr_110e_vtab1k-dmlab.py
"""

_base_ = [
    '_base_/vtab1k_dmlab.py',
    '../_base_/models/vit-h-p14.py',
    '../_base_/tuners/rlrr_cls.py',
]
model = dict(
    backbone=dict(tuner=dict(_base_.tuner, branch_dropout=_base_.dropout)),
    head=dict(num_classes=_base_.num_classes),
)
