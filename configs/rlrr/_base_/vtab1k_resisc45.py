"""Resisc45 of VTAB-1k, with the settings of the authors' code."""

_base_ = [
    '../../_base_/datasets/vtab1k.py',
    '../../_base_/schedules/adamw_110e_cls.py',
    '../../_base_/default_runtime.py',
]

num_classes = 45
dropout = 0.0
train_dataloader = dict(dataset=dict(task='resisc45'))
val_dataloader = dict(dataset=dict(task='resisc45'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=3e-3, weight_decay=5e-5))
