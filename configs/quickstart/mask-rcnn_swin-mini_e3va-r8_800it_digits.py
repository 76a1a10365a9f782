r"""E3VA (rank 8): Mask R-CNN on digit scenes.

The backbone is frozen and no gradient flows through it; adapters on a highway
beside it train, and so do output norms, neck and heads.

    python tools/train.py \
        configs/quickstart/mask-rcnn_swin-mini_e3va-r8_800it_digits.py
"""

_base_ = [
    '_base_/models/mask-rcnn_swin-mini.py',
    '_base_/datasets/digits_coco.py',
    '_base_/schedules/adamw_800it.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(type='mmlowrank.SwinE3VA', rank=8))
