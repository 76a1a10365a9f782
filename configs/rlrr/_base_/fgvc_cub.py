"""CUB_200_2011 of FGVC, with the settings of the authors' code."""

_base_ = [
    '../../_base_/datasets/fgvc.py',
    '../../_base_/schedules/adamw_60e-restarts_cls.py',
    '../../_base_/default_runtime.py',
]

num_classes = 200
dropout = 0.1
train_dataloader = dict(dataset=dict(name='CUB_200_2011'))
val_dataloader = dict(dataset=dict(name='CUB_200_2011'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=3e-3, weight_decay=5e-2))
