r"""Norm tuning of Swin-B: Cascade Mask R-CNN, COCO.

E3VA paper (table 2): box AP 48.0, mask AP 41.4. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-b_norm-tuning_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/norm-tuning.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
