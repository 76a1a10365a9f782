"""Swin-B, pre-trained on ImageNet-22k with windows of 7 x 7."""

swin = dict(
    type='SwinTransformer',
    embed_dims=128,
    depths=[2, 2, 18, 2],
    num_heads=[4, 8, 16, 32],
    window_size=7,
    # Microsoft's files, converted while they are loaded.
    convert_weights=True,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://github.com/SwinTransformer/storage/releases/'
        'download/v1.0.0/swin_base_patch4_window7_224_22k.pth',
    ),
)
# Channels of the four stages.
widths = [128, 256, 512, 1024]
