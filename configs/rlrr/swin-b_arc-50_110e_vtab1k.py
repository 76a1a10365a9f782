r"""ARC on Swin-B: one task of VTAB-1k.

Paper (table 5): top-1 accuracy 72.6, the mean of 19 tasks. Not run here.

    VTAB_TASK=cifar python tools/train.py --amp \
        configs/rlrr/swin-b_arc-50_110e_vtab1k.py
"""

_base_ = [
    '_base_/vtab1k.py',
    '../_base_/models/swin-b.py',
    '../_base_/tuners/arc-50_cls.py',
]
work_dir = f'work_dirs/{{ fileBasenameNoExtension }}/{_base_.task}'
model = dict(
    backbone=dict(tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes),
)
