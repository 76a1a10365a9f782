r"""Adapter (hidden width d/2) on Swin-B: Cascade Mask R-CNN, COCO.

LoRand paper (table 2): box AP 46.50, mask AP 40.20. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-b_adapter-b_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/adapter-b.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
