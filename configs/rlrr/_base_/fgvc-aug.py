"""FGVC with a moving average of the weights; who inherits names the data.

What the authors' code has beside this, mixup, CutMix and label smoothing, is
in the model, vit-b-p16-augreg_mixup.py.
"""

_base_ = [
    '../../_base_/datasets/fgvc.py',
    '../../_base_/schedules/adamw_110e-restarts_cls.py',
    '../../_base_/default_runtime.py',
]

# The average is what is evaluated and saved.
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=0.0002, priority='ABOVE_NORMAL'),
]
