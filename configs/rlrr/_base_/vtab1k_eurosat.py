"""EuroSAT of VTAB-1k, with the settings of the authors' code."""

_base_ = [
    '../../_base_/datasets/vtab1k-flip.py',
    '../../_base_/schedules/adamw_110e_cls.py',
    '../../_base_/default_runtime.py',
]

num_classes = 10
dropout = 0.1
train_dataloader = dict(dataset=dict(task='eurosat'))
val_dataloader = dict(dataset=dict(task='eurosat'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=5e-5))
