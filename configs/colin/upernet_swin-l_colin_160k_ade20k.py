r"""CoLin on Swin-L: UPerNet, ADE20K.

Paper: mIoU 51.28. Not run here.

    bash tools/dist_train.sh \
        configs/colin/upernet_swin-l_colin_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/colin.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
