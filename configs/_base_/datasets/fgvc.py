"""One data set of FGVC, crops of 224 from 256; who inherits names it."""

_base_ = 'classification.py'

# FGVC_ROOT in the environment names another folder.
data_root = r"""{{$FGVC_ROOT:data/fgvc}}"""

# Pillow decodes and resizes, as it did for the published results.
read_and_resize = [
    dict(
        type='LoadImageFromFile',
        imdecode_backend='pillow',
        color_type='color_ignore_orientation',
    ),
    dict(
        type='Resize',
        scale=(256, 256),
        interpolation='bilinear',
        backend='pillow',
    ),
]

train_dataloader = dict(
    dataset=dict(
        type='mmlowrank.FGVC',
        data_root=data_root,
        split='trainval',
        pipeline=[
            *read_and_resize,
            dict(type='RandomCrop', crop_size=224),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='mmlowrank.FGVC',
        data_root=data_root,
        split='test',
        test_mode=True,
        pipeline=[
            *read_and_resize,
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs'),
        ],
    ),
)
test_dataloader = val_dataloader
