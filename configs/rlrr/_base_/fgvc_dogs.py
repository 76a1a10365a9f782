"""StanfordDogs of FGVC, with the settings of the authors' code."""

_base_ = [
    '../../_base_/datasets/fgvc.py',
    '../../_base_/schedules/adamw_60e-restarts_cls.py',
    '../../_base_/default_runtime.py',
]

num_classes = 120
dropout = 0.0
train_dataloader = dict(dataset=dict(name='StanfordDogs'))
val_dataloader = dict(dataset=dict(name='StanfordDogs'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=5e-2))
