r"""Bias tuning (BitFit) of Swin-L: Cascade Mask R-CNN, COCO.

E3VA paper (table 4): fits an RTX 3090 (24 GB) or a V100 (32 GB) with 1 image,
neither with 2; it prints no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-l_bitfit_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-l.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/bitfit.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
