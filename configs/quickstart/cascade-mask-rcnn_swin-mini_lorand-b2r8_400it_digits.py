r"""LoRand (2 branches, rank 8): Cascade Mask R-CNN on digit scenes.

The detector of the paper's COCO tables. Not part of tools/quickstart.sh,
which makes the scenes and the pre-trained backbone that this needs.

    python tools/train.py \
        configs/quickstart/cascade-mask-rcnn_swin-mini_lorand-b2r8_400it_digits.py
"""

_base_ = [
    '_base_/models/cascade-mask-rcnn_swin-mini.py',
    '_base_/datasets/digits_coco.py',
    '_base_/schedules/adamw_400it.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(type='mmlowrank.SwinLoRand', branches=2, rank=8))
