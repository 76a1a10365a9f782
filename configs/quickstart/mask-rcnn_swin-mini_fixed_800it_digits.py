r"""Frozen backbone: Mask R-CNN on digit scenes. The lower row of the table.

Neck and heads train.

    python tools/train.py \
        configs/quickstart/mask-rcnn_swin-mini_fixed_800it_digits.py
"""

_base_ = [
    '_base_/models/mask-rcnn_swin-mini.py',
    '_base_/datasets/digits_coco.py',
    '_base_/schedules/adamw_800it.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(type='mmlowrank.SwinFixed'))
