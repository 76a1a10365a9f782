"""FGVC as the authors' code trains it with strong augmentation.

110 epochs, restarts after 10, 20 and 40 epochs (the last cosine does not
end), and a moving average of the weights. Mixup, CutMix and label smoothing
are in the model, vit-b-p16-augreg_mixup.py.
"""

_base_ = './fgvc.py'

# As theirs, whose mixup needs batches of an even size.
train_dataloader = dict(drop_last=_base_.name == 'NABirds')
param_scheduler = dict(
    _delete_=True,
    type='CosineRestartLR',
    periods=[10, 20, 40, 80],
    restart_weights=[1.0] * 4,
    eta_min=0.0,
    begin=1,
    end=110,
)
train_cfg = dict(max_epochs=110)
# The average is what is evaluated and saved.
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=0.0002, priority='ABOVE_NORMAL'),
]
