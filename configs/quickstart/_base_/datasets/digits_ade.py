"""Digit scenes in the style of ADE20K: a PNG with a class per pixel.

0 is the background, which is ignored as ADE20K's label 0 is; 1 to 10 are the
digits 0 to 9. The background is nine tenths of the pixels: as a class of its
own it is all that UPerNet predicts after 400 iterations.
"""

# DIGIT_SCENES in the environment names another folder.
data_root = r"""{{$DIGIT_SCENES:data/digit_scenes}}"""
metainfo = dict(classes=tuple('0123456789'))

train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(
            img_path='images/train', seg_map_path='annotations/train'
        ),
        metainfo=metainfo,
        reduce_zero_label=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(
            img_path='images/val', seg_map_path='annotations/val'
        ),
        metainfo=metainfo,
        reduce_zero_label=True,
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
