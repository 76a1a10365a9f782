r"""E3VA (rank 8): Faster R-CNN on digit scenes in VOC format.

One of three tasks on one frozen backbone, see docs/serving.md. Not part of
tools/quickstart.sh, which makes the scenes and the pre-trained backbone that
this needs.

    python tools/train.py \
        configs/quickstart/faster-rcnn_swin-mini_e3va-r8_800it_digits-voc.py
"""

_base_ = [
    '_base_/models/faster-rcnn_swin-mini.py',
    '_base_/datasets/digits_voc.py',
    '_base_/schedules/adamw_800it.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(type='mmlowrank.SwinE3VA', rank=8))
