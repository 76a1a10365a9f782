r"""Full fine-tuning of Swin-L: UPerNet, ADE20K.

LoRand paper (table 1): mIoU 53.25.
E3VA paper (table 1): mIoU 52.10. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/upernet_swin-l_full_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/full.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
