r"""RLRR on Swin-L: UPerNet, ADE20K.

The paper has no dense prediction: no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/rlrr/upernet_swin-l_rlrr_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/rlrr.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
