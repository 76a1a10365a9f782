"""StanfordCars of FGVC, with the settings of the authors' code."""

_base_ = [
    '../../_base_/datasets/fgvc.py',
    '../../_base_/schedules/adamw_60e_cls.py',
    '../../_base_/default_runtime.py',
]

num_classes = 196
dropout = 0.2
train_dataloader = dict(dataset=dict(name='StanfordCars'))
val_dataloader = dict(dataset=dict(name='StanfordCars'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=3e-3, weight_decay=5e-2))
