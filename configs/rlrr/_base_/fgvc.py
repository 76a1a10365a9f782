"""One data set of FGVC; FGVC_NAME in the environment names its folder.

Who inherits finds ``name``, ``num_classes`` and ``dropout``.
"""

_base_ = [
    '../../_base_/datasets/fgvc.py',
    '../../_base_/schedules/adamw_60e_cls.py',
    '../../_base_/default_runtime_one-size.py',
]

# Classes, learning rate, dropout, whether the learning rate restarts every 5
# epochs: the settings of the authors' code.
__names = dict(
    CUB_200_2011=(200, 3e-3, 0.1, True),
    NABirds=(555, 5e-4, 0.3, False),
    OxfordFlowers=(102, 3e-3, 0.2, False),
    StanfordCars=(196, 3e-3, 0.2, False),
    StanfordDogs=(120, 1e-4, 0.0, True),
)
name = '{{$FGVC_NAME:unset}}'
if name not in __names:
    raise ValueError(
        f'FGVC_NAME names no data set of FGVC: {name}. Set it in the '
        'environment, e.g. FGVC_NAME=NABirds python tools/train.py ..., to '
        f'one of: {", ".join(__names)}'
    )
num_classes, __lr, dropout, __restarts = __names[name]

train_dataloader = dict(dataset=dict(name=name))
val_dataloader = dict(dataset=dict(name=name))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=__lr, weight_decay=5e-2))
if __restarts:
    # Their code sets the rate of a step after that epoch: the first two
    # epochs run at the full rate, hence begin=1.
    param_scheduler = dict(
        _delete_=True,
        type='CosineRestartLR',
        periods=[5] * 12,
        restart_weights=[1.0] * 12,
        eta_min=0.0,
        begin=1,
        end=60,
    )
