r"""Partial on Swin-B: one task of VTAB-1k.

Paper (table 5): top-1 accuracy 58.9, the mean of 19 tasks. Not run here.

    VTAB_TASK=cifar python tools/train.py --amp \
        configs/rlrr/swin-b_partial-1_110e_vtab1k.py
"""

_base_ = [
    '_base_/vtab1k.py',
    '../_base_/models/swin-b.py',
    '../_base_/tuners/partial-1_cls.py',
]
work_dir = f'work_dirs/{{ fileBasenameNoExtension }}/{_base_.task}'
model = dict(
    backbone=dict(tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes),
)
# The rates of the tasks are for what a tuner adds.
optim_wrapper = dict(optimizer=dict(lr=1e-4))
