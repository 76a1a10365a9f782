r"""Bias tuning (BitFit) of Swin-B: Cascade Mask R-CNN, COCO.

E3VA paper (table 2): box AP 47.9, mask AP 41.9. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-b_bitfit_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/bitfit.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
