"""The Swin of 2.3 M parameters, with the weights it got from the digits."""

swin_mini = dict(
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
        checkpoint=r"""{{$DIGIT_SWIN:work_dirs/quickstart/pretrain/epoch_20.pth}}""",
    ),
)
