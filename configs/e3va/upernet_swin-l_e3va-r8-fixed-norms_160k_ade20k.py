r"""E3VA (rank 8, frozen output norms) on Swin-L: UPerNet, ADE20K.

Paper (table 6): we have no number for this row; it is missing from our
copy of the text. Not run here.

    bash tools/dist_train.sh \
        configs/e3va/upernet_swin-l_e3va-r8-fixed-norms_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/e3va-r8-fixed-norms.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
