"""StanfordDogs, with the settings of the authors' code for AugReg."""

_base_ = './fgvc-aug.py'

num_classes = 120
dropout = 0.0
train_dataloader = dict(dataset=dict(name='StanfordDogs'))
val_dataloader = dict(dataset=dict(name='StanfordDogs'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=5e-2))
