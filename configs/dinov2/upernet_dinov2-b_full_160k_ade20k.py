r"""Full fine-tuning of DINOv2-B: UPerNet, ADE20K.

No paper has this row. Not run here.

    bash tools/dist_train.sh \
        configs/dinov2/upernet_dinov2-b_full_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_dinov2-b.py',
    '../_base_/datasets/ade20k_518.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/full.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=dict(tuner=dict(_base_.tuner, type='Full')))
