"""CIFAR-100 as DeiT's code would load it at 56 x 56 pixels."""

_base_ = '../../_base_/datasets/classification.py'

# CIFAR_ROOT in the environment names another folder. mmpretrain downloads
# what is not there.
data_root = r"""{{$CIFAR_ROOT:data/cifar100}}"""

# The images come as RGB arrays.
mean, std = [129.304, 124.070, 112.434], [68.170, 65.392, 70.418]
data_preprocessor = dict(num_classes=100, mean=mean, std=std, to_rgb=False)

train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    dataset=dict(
        type='CIFAR100',
        data_root=data_root,
        split='train',
        pipeline=[
            dict(
                type='RandomResizedCrop',
                scale=56,
                backend='pillow',
                interpolation='bicubic',
            ),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(
                type='RandAugment',
                policies='timm_increasing',
                num_policies=2,
                total_level=10,
                magnitude_level=9,
                magnitude_std=0.5,
                hparams=dict(
                    pad_val=[round(channel) for channel in mean],
                    interpolation='bicubic',
                ),
            ),
            dict(
                type='RandomErasing',
                erase_prob=0.25,
                mode='rand',
                min_area_ratio=0.02,
                max_area_ratio=1 / 3,
                fill_color=mean,
                fill_std=std,
            ),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=512,
    num_workers=8,
    dataset=dict(
        type='CIFAR100',
        data_root=data_root,
        split='test',
        test_mode=True,
        pipeline=[
            # 256 / 224 of the crop, as on ImageNet.
            dict(
                type='ResizeEdge',
                scale=64,
                backend='pillow',
                interpolation='bicubic',
            ),
            dict(type='CenterCrop', crop_size=56),
            dict(type='PackInputs'),
        ],
    ),
)
test_dataloader = val_dataloader
