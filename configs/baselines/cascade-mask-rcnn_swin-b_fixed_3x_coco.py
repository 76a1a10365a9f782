r"""Frozen Swin-B: Cascade Mask R-CNN, COCO.

LoRand paper (table 2): box AP 15.30, mask AP 10.80.
E3VA paper (table 2): box AP 43.5, mask AP 38.6.
Mona paper: box AP 48.0. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-b_fixed_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/fixed.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
