"""Swin-T, pre-trained on ImageNet-22k with windows of 7 x 7."""

# Microsoft lists ImageNet-22k weights for B and L only; the T and S files were
# added in its release v1.0.8. Which of them LoRand used is not known.
swin = dict(
    type='SwinTransformer',
    embed_dims=96,
    depths=[2, 2, 6, 2],
    num_heads=[3, 6, 12, 24],
    window_size=7,
    # Microsoft's files, converted while they are loaded.
    convert_weights=True,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://github.com/SwinTransformer/storage/releases/'
        'download/v1.0.8/swin_tiny_patch4_window7_224_22k.pth',
    ),
)
# Channels of the four stages.
widths = [96, 192, 384, 768]
