r"""Mona on Swin-L: UPerNet, ADE20K.

We have no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/mona/upernet_swin-l_mona_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/mona.py',
    '../_base_/default_runtime_one-size.py',
]
# As in the authors' own run.
model = dict(backbone=dict(_base_.tuner, drop_path_rate=0.2))
optim_wrapper = dict(optimizer=dict(lr=3e-4))
