r"""Full fine-tuning: Mask R-CNN on digit scenes. The upper row of the table.

    python tools/train.py \
        configs/quickstart/mask-rcnn_swin-mini_full_800it_digits.py
"""

_base_ = [
    '_base_/models/mask-rcnn_swin-mini.py',
    '_base_/datasets/digits_coco.py',
    '_base_/schedules/adamw_800it.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(type='mmlowrank.SwinFull'))
# Pre-trained weights move less than the new neck and heads.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.5)})
)
