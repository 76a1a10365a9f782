r"""Frozen Swin-S: Cascade Mask R-CNN, COCO.

The LoRand paper prints no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-s_fixed_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-s.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/fixed.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
