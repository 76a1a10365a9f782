r"""Adapter (hidden width d/4) on Swin-L: UPerNet, ADE20K.

LoRand paper (table 1): mIoU 43.51. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/upernet_swin-l_adapter-t_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/adapter-t.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
