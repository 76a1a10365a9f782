r"""RLRR on ViT-B/16 (AugReg): EuroSAT of VTAB-1k.

Paper (table 2): top-1 accuracy 96.2. Not run here.

    python tools/train.py --amp \
        configs/rlrr/vit-b-p16-augreg_rlrr_110e_vtab1k-eurosat.py
"""

_base_ = [
    '_base_/vtab1k_eurosat.py',
    '../_base_/models/vit-b-p16-augreg.py',
    '../_base_/tuners/rlrr_cls.py',
]
model = dict(
    backbone=dict(tuner=dict(_base_.tuner, branch_dropout=_base_.dropout)),
    head=dict(num_classes=_base_.num_classes),
)
