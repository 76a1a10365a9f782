r"""LoRand+ (4 branches, rank 8) on Swin-B: UPerNet, ADE20K.

The paper prints no number for this row (figure 5 draws it). Not run here.

    bash tools/dist_train.sh \
        configs/lorand/upernet_swin-b_lorand-b4r8_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-b.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/lorand-b4r8.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
