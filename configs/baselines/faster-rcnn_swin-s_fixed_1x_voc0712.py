r"""Frozen Swin-S: Faster R-CNN, VOC 07+12.

The LoRand paper prints no number for this row (figure 5 draws it). Not
run here.

    bash tools/dist_train.sh \
        configs/baselines/faster-rcnn_swin-s_fixed_1x_voc0712.py 8
"""

_base_ = [
    '../_base_/models/faster-rcnn_swin-s.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x_voc0712.py',
    '../_base_/tuners/fixed.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
