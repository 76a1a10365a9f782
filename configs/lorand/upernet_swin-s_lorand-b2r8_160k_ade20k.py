r"""LoRand (2 branches, rank 8) on Swin-S: UPerNet, ADE20K.

Paper (table 3b): mIoU 47.33. Not run here.

    bash tools/dist_train.sh \
        configs/lorand/upernet_swin-s_lorand-b2r8_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-s.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/lorand-b2r8.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
