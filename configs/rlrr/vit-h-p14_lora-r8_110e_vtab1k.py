r"""LoRA on ViT-H/14: one task of VTAB-1k.

Paper (table 4): top-1 accuracy 69.3, the mean of 19 tasks. Not run here.

    VTAB_TASK=cifar python tools/train.py --amp \
        configs/rlrr/vit-h-p14_lora-r8_110e_vtab1k.py
"""

_base_ = [
    '_base_/vtab1k.py',
    '../_base_/models/vit-h-p14.py',
    '../_base_/tuners/lora-r8_cls.py',
]
work_dir = f'work_dirs/{{ fileBasenameNoExtension }}/{_base_.task}'
model = dict(
    backbone=dict(tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes),
)
