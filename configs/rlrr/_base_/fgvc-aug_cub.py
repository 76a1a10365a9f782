"""CUB_200_2011, with the settings of the authors' code for AugReg."""

_base_ = './fgvc-aug.py'

num_classes = 200
dropout = 0.1
train_dataloader = dict(dataset=dict(name='CUB_200_2011'))
val_dataloader = dict(dataset=dict(name='CUB_200_2011'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=3e-3, weight_decay=5e-2))
