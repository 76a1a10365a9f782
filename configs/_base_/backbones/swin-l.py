"""Swin-L, pre-trained on ImageNet-22k with windows of 7 x 7."""

swin = dict(
    type='SwinTransformer',
    embed_dims=192,
    depths=[2, 2, 18, 2],
    num_heads=[6, 12, 24, 48],
    window_size=7,
    # Microsoft's files, converted while they are loaded.
    convert_weights=True,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://github.com/SwinTransformer/storage/releases/'
        'download/v1.0.0/swin_large_patch4_window7_224_22k.pth',
    ),
)
# Channels of the four stages.
widths = [192, 384, 768, 1536]
