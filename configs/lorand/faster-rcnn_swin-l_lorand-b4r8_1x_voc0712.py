r"""LoRand+ (4 branches, rank 8) on Swin-L: Faster R-CNN, VOC 07+12.

Paper (table 1): AP 87.63. Not run here.

    bash tools/dist_train.sh \
        configs/lorand/faster-rcnn_swin-l_lorand-b4r8_1x_voc0712.py 8
"""

_base_ = [
    '../_base_/models/faster-rcnn_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x_voc0712.py',
    '../_base_/tuners/lorand-b4r8.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
