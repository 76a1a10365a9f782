r"""Adapter (hidden width d/2) on Swin-S: Cascade Mask R-CNN, COCO.

The LoRand paper prints no number for this row (figure 5 draws it). Not
run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-s_adapter-b_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-s.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/adapter-b.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
