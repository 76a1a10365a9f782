"""The digits alone, 40 x 40: a classification set."""

# DIGIT_SCENES in the environment names another folder.
data_root = r"""{{$DIGIT_SCENES:data/digit_scenes}}"""

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        data_prefix='digits/train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='NumpyToPIL', to_rgb=True),
            # A digit is 28 pixels high in the file: 20 to 36 after this,
            # shifted by up to 4.
            dict(
                type='torchvision/RandomAffine',
                degrees=0,
                translate=(0.1, 0.1),
                scale=(20 / 28, 36 / 28),
                interpolation='bilinear',
            ),
            # On the scenes a digit may be darker than what is around it.
            dict(type='torchvision/RandomInvert', p=0.5),
            dict(type='torchvision/ColorJitter', brightness=0.3, contrast=0.5),
            dict(type='PILToNumpy', to_bgr=True),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        data_prefix='digits/val',
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='PackInputs'),
        ],
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
