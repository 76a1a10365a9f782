"""AdaMixer on the small Swin of the quickstart: 30 queries, three stages."""

default_scope = 'mmdet'
visualizer = dict(
    type='DetLocalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
    name='visualizer',
)

model = dict(
    type='mmlowrank.AdaMixer',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='SwinTransformer',
        embed_dims=32,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 4, 8],
        # 160 pixels give maps of 40, 20, 10 and 5: no padding in any window.
        window_size=5,
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained',
            # DIGIT_SWIN in the environment names another checkpoint.
            checkpoint='{{$DIGIT_SWIN:work_dirs/quickstart/pretrain/epoch_20.pth}}',
        ),
    ),
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
