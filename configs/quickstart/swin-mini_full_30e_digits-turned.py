r"""Full tuning of the small Swin: digits on their side.

    python tools/train.py \
        configs/quickstart/swin-mini_full_30e_digits-turned.py
"""

_base_ = [
    '_base_/models/swin-mini_cls.py',
    '_base_/datasets/digits_turned.py',
    '_base_/schedules/adamw_30e_cls.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(tuner=dict(type='Full')))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
