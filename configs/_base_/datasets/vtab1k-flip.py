"""One task of VTAB-1k, 224 x 224, training images flipped at random."""

_base_ = './vtab1k.py'

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            *_base_.read_and_resize,
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    )
)
