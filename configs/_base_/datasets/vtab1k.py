"""One task of VTAB-1k, 224 x 224; who inherits names the task."""

_base_ = 'classification.py'

# VTAB_ROOT in the environment names another folder.
data_root = r"""{{$VTAB_ROOT:data/vtab-1k}}"""

# Pillow decodes and resizes, as it did for the published results; its
# bicubic filter widens when it shrinks an image, OpenCV's does not.
read_and_resize = [
    dict(
        type='LoadImageFromFile',
        imdecode_backend='pillow',
        color_type='color_ignore_orientation',
    ),
    dict(
        type='Resize',
        scale=(224, 224),
        interpolation='bicubic',
        backend='pillow',
    ),
]
pipeline = [*read_and_resize, dict(type='PackInputs')]

train_dataloader = dict(
    dataset=dict(
        type='mmlowrank.VTAB1k',
        data_root=data_root,
        split='train',
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='mmlowrank.VTAB1k',
        data_root=data_root,
        split='test',
        test_mode=True,
        pipeline=pipeline,
    ),
)
test_dataloader = val_dataloader
