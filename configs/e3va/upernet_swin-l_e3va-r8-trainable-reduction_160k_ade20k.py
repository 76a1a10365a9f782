r"""E3VA (rank 8, trained patch merging) on Swin-L: UPerNet, ADE20K.

Paper (table 6): mIoU 49.97. Not run here.

    bash tools/dist_train.sh \
        configs/e3va/upernet_swin-l_e3va-r8-trainable-reduction_160k_ade20k.py 8
"""  # noqa: E501

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/e3va-r8-trainable-reduction.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
