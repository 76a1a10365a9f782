r"""Mona on Swin-L: RetinaNet, VOC 07+12.

We have no number for this row. Not run here.

    python tools/train.py \
        configs/mona/retinanet_swin-l_mona_1x_voc0712.py
"""

_base_ = [
    '../_base_/models/retinanet_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x-2img_voc0712.py',
    '../_base_/tuners/mona.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
