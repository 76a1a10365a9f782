r"""CoLin on Swin-L: RetinaNet, VOC 07+12.

Paper: AP 87.5. Not run here.

    python tools/train.py \
        configs/colin/retinanet_swin-l_colin_1x_voc0712.py
"""

_base_ = [
    '../_base_/models/retinanet_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x-2img_voc0712.py',
    '../_base_/tuners/colin.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
