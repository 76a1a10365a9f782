r"""E3VA++ (rank 32) on Swin-L: RetinaNet, VOC 07+12.

Paper (table 1): AP 87.0. Not run here.

    python tools/train.py \
        configs/e3va/retinanet_swin-l_e3va-r32_1x_voc0712.py
"""

_base_ = [
    '../_base_/models/retinanet_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x-2img_voc0712.py',
    '../_base_/tuners/e3va-r32.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
