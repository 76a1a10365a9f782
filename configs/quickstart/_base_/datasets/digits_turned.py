"""A third of the digits, black on white and lying on their side, 40 x 40.

What the pre-trained backbones have not seen: they know digits that stand.
"""

_base_ = './digits_cls.py'

turn = [
    dict(type='torchvision/RandomRotation', degrees=(90, 90)),
    dict(type='torchvision/RandomInvert', p=1.0),
    dict(type='PILToNumpy', to_bgr=True),
    dict(type='PackInputs'),
]
read_and_scale = _base_.train_dataloader.dataset.pipeline[:3]

train_dataloader = dict(
    # Every third of 1,297 files, which are sorted by class.
    dataset=dict(
        indices=[*range(0, 1297, 3)], pipeline=[*read_and_scale, *turn]
    ),
)
val_dataloader = dict(dataset=dict(pipeline=[*read_and_scale[:2], *turn]))
test_dataloader = val_dataloader
