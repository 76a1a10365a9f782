r"""LoRand (4 branches, rank 8): Mask R-CNN on digit scenes.

The backbone is frozen; adapters behind attention and MLP of each block train,
and so do neck and heads.

    python tools/train.py \
        configs/quickstart/mask-rcnn_swin-mini_lorand-b4r8_800it_digits.py
"""

_base_ = [
    '_base_/models/mask-rcnn_swin-mini.py',
    '_base_/datasets/digits_coco.py',
    '_base_/schedules/adamw_800it.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(type='mmlowrank.SwinLoRand', branches=4, rank=8))
