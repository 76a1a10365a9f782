"""AdaMixer on ResNet-50: 100 queries, six stages, 4 groups of 32 points."""

_base_ = 'detector.py'

model = dict(
    type='mmlowrank.AdaMixer',
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    neck=dict(
        type='mmlowrank.AdaMixerNeck',
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
    ),
    queries=dict(
        type='mmlowrank.AdaMixerQueries', num_queries=100, embed_dims=256
    ),
    decoder=dict(
        type='mmlowrank.AdaMixerDecoder',
        num_classes=80,
        num_stages=6,
        embed_dims=256,
        in_channels=256,
        groups=4,
        in_points=32,
        out_points=128,
    ),
)
