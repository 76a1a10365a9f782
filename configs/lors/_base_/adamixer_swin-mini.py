"""AdaMixer on the small Swin of the quickstart: 30 queries, three stages."""

_base_ = [
    '../../_base_/models/detector.py',
    '../../quickstart/_base_/models/swin-mini.py',
]

model = dict(
    type='mmlowrank.AdaMixer',
    backbone=_base_.swin_mini,
    neck=dict(
        type='mmlowrank.AdaMixerNeck',
        in_channels=[32, 64, 128, 256],
        out_channels=64,
        num_groups=8,
    ),
    queries=dict(
        type='mmlowrank.AdaMixerQueries', num_queries=30, embed_dims=64
    ),
    decoder=dict(
        type='mmlowrank.AdaMixerDecoder',
        num_classes=10,
        num_stages=3,
        embed_dims=64,
        in_channels=64,
        groups=2,
        in_points=16,
        out_points=32,
        num_heads=4,
        ffn_channels=256,
    ),
)
