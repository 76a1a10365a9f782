r"""LoRand (2 branches, rank 8): Faster R-CNN on digit scenes in VOC format.

The detector of the paper's VOC table. Not part of tools/quickstart.sh,
which makes the scenes and the pre-trained backbone that this needs.

    python tools/train.py \
        configs/quickstart/faster-rcnn_swin-mini_lorand-b2r8_400it_digits-voc.py
"""

_base_ = [
    '_base_/models/faster-rcnn_swin-mini.py',
    '_base_/datasets/digits_voc.py',
    '_base_/schedules/adamw_400it.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(type='mmlowrank.SwinLoRand', branches=2, rank=8))
