r"""Frozen Swin-L: Faster R-CNN, VOC 07+12.

LoRand paper (table 1): AP 85.19. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/faster-rcnn_swin-l_fixed_1x_voc0712.py 8
"""

_base_ = [
    '../_base_/models/faster-rcnn_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x_voc0712.py',
    '../_base_/tuners/fixed.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
