"""NABirds, with the settings of the authors' code for AugReg."""

_base_ = './fgvc-aug.py'

num_classes = 555
dropout = 0.3
train_dataloader = dict(drop_last=True, dataset=dict(name='NABirds'))
val_dataloader = dict(dataset=dict(name='NABirds'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-4, weight_decay=5e-2))
