r"""Frozen Swin-S: UPerNet, ADE20K.

The LoRand paper prints no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/upernet_swin-s_fixed_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-s.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/fixed.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
