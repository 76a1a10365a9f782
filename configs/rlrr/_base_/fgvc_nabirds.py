"""NABirds of FGVC, with the settings of the authors' code."""

_base_ = [
    '../../_base_/datasets/fgvc.py',
    '../../_base_/schedules/adamw_60e_cls.py',
    '../../_base_/default_runtime.py',
]

num_classes = 555
dropout = 0.3
train_dataloader = dict(dataset=dict(name='NABirds'))
val_dataloader = dict(dataset=dict(name='NABirds'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-4, weight_decay=5e-2))
