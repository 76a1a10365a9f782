r"""LoRand (rank 8, hidden width 64) on Swin-L: RetinaNet, VOC 07+12.

E3VA paper (table 1): AP 86.8. Not run here.

    python tools/train.py \
        configs/lorand/retinanet_swin-l_lorand-b2r8-mid64_1x_voc0712.py
"""

_base_ = [
    '../_base_/models/retinanet_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x-2img_voc0712.py',
    '../_base_/tuners/lorand-b2r8-mid64.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
