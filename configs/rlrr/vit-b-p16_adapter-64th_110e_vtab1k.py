r"""Adapter on ViT-B/16: one task of VTAB-1k.

Paper (table 2): top-1 accuracy 55.8, the mean of 19 tasks. Not run here.

    VTAB_TASK=cifar python tools/train.py --amp \
        configs/rlrr/vit-b-p16_adapter-64th_110e_vtab1k.py
"""

_base_ = [
    '_base_/vtab1k.py',
    '../_base_/models/vit-b-p16.py',
    '../_base_/tuners/adapter-64th_cls.py',
]
work_dir = f'work_dirs/{{ fileBasenameNoExtension }}/{_base_.task}'
model = dict(
    backbone=dict(tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes),
)
