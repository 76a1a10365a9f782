"""OxfordFlowers, with the settings of the authors' code for AugReg."""

_base_ = './fgvc-aug.py'

num_classes = 102
dropout = 0.2
train_dataloader = dict(dataset=dict(name='OxfordFlowers'))
val_dataloader = dict(dataset=dict(name='OxfordFlowers'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=3e-3, weight_decay=5e-2))
