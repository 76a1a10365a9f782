r"""Frozen Swin-L: UPerNet, ADE20K.

LoRand paper (table 1): mIoU 32.21.
E3VA paper (table 1): mIoU 46.84. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/upernet_swin-l_fixed_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/fixed.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
