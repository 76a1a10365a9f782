"""Digit scenes in VOC format: XML boxes."""

# DIGIT_SCENES in the environment names another folder.
data_root = r"""{{$DIGIT_SCENES:data/digit_scenes}}"""
metainfo = dict(classes=tuple('0123456789'))

train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='VOCDataset',
        data_root=data_root,
        ann_file='voc/ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root=''),
        img_subdir='images/train',
        ann_subdir='voc/Annotations',
        metainfo=metainfo,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs'),
        ],
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VOCDataset',
        data_root=data_root,
        ann_file='voc/ImageSets/Main/val.txt',
        data_prefix=dict(sub_data_root=''),
        img_subdir='images/val',
        ann_subdir='voc/Annotations',
        metainfo=metainfo,
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            # Keeps the size; detectors want to read a scale_factor.
            dict(type='Resize', scale_factor=1.0, keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                type='PackDetInputs',
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
            ),
        ],
    ),
)
test_evaluator = dict(type='VOCMetric', metric='mAP', eval_mode='area')
