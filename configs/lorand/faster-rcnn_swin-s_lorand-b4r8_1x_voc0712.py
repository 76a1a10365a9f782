r"""LoRand+ (4 branches, rank 8) on Swin-S: Faster R-CNN, VOC 07+12.

The paper prints no number for this row (figure 5 draws it). Not run here.

    bash tools/dist_train.sh \
        configs/lorand/faster-rcnn_swin-s_lorand-b4r8_1x_voc0712.py 8
"""

_base_ = [
    '../_base_/models/faster-rcnn_swin-s.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x_voc0712.py',
    '../_base_/tuners/lorand-b4r8.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
