r"""RLRR on Swin-B: Pets of VTAB-1k.

Paper (table 5): no number for this row; Natural mean 81.3. Not run here.

    python tools/train.py --amp \
        configs/rlrr/swin-b_rlrr_110e_vtab1k-oxford-iiit-pet.py
"""

_base_ = [
    '_base_/vtab1k_oxford-iiit-pet.py',
    '../_base_/models/swin-b.py',
    '../_base_/tuners/rlrr_cls.py',
]
model = dict(
    backbone=dict(tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes),
)
