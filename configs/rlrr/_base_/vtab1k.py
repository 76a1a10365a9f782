"""One task of VTAB-1k; VTAB_TASK in the environment names its folder.

Who inherits finds ``task``, ``num_classes`` and ``dropout``.
"""

_base_ = [
    '../../_base_/datasets/vtab1k.py',
    '../../_base_/schedules/adamw_110e_cls.py',
    '../../_base_/default_runtime_one-size.py',
]

# Classes, learning rate, dropout, weight decay, whether images are flipped:
# the settings of the authors' code.
__tasks = dict(
    cifar=(100, 3e-3, 0.1, 5e-5, False),
    caltech101=(102, 1e-3, 0.1, 5e-5, False),
    dtd=(47, 2e-3, 0.1, 5e-5, True),
    oxford_flowers102=(102, 3e-3, 0.3, 5e-2, False),
    oxford_iiit_pet=(37, 1e-3, 0.1, 5e-5, True),
    svhn=(10, 5e-3, 0.3, 5e-5, False),
    sun397=(397, 1e-3, 0.1, 5e-5, False),
    patch_camelyon=(2, 3e-3, 0.3, 5e-2, True),
    eurosat=(10, 1e-3, 0.1, 5e-5, True),
    resisc45=(45, 3e-3, 0.0, 5e-5, False),
    diabetic_retinopathy=(5, 5e-3, 0.1, 5e-5, True),
    clevr_count=(8, 5e-3, 0.5, 5e-5, True),
    clevr_dist=(6, 1e-2, 0.2, 5e-5, True),
    dmlab=(6, 5e-3, 0.3, 5e-5, True),
    kitti=(4, 3e-3, 0.3, 5e-2, True),
    dsprites_loc=(16, 1e-2, 0.1, 5e-5, False),
    dsprites_ori=(16, 5e-3, 0.1, 5e-5, False),
    smallnorb_azi=(18, 5e-3, 0.3, 5e-2, False),
    smallnorb_ele=(9, 1e-3, 0.3, 5e-5, True),
)
task = '{{$VTAB_TASK:unset}}'
if task not in __tasks:
    raise ValueError(
        f'VTAB_TASK names no task of VTAB-1k: {task}. Set it in the '
        'environment, e.g. VTAB_TASK=cifar python tools/train.py ..., to one '
        f'of: {", ".join(__tasks)}'
    )
num_classes, __lr, dropout, __weight_decay, __flip = __tasks[task]

train_dataloader = dict(dataset=dict(task=task))
if __flip:
    train_dataloader['dataset']['pipeline'] = [
        *_base_.read_and_resize,
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs'),
    ]
val_dataloader = dict(dataset=dict(task=task))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=__lr, weight_decay=__weight_decay))
