r"""Full fine-tuning of Swin-B: UPerNet, ADE20K.

LoRand paper (table 3b): mIoU 51.60. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/upernet_swin-b_full_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-b.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/full.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
