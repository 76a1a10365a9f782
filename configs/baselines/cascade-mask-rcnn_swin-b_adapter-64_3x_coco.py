r"""Adapter (hidden width 64) on Swin-B: Cascade Mask R-CNN, COCO.

E3VA paper (table 2): box AP 50.9, mask AP 43.8. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-b_adapter-64_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/adapter-64.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
