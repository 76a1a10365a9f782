r"""LoRA (rank 64) on Swin-L: UPerNet, ADE20K.

E3VA paper (table 1): mIoU 50.34. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/upernet_swin-l_lora-r64_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/lora-r64.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
