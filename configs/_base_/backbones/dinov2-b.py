"""DINOv2-B: mmpretrain's ViT with patches of 14 x 14, maps of four blocks."""

vit = dict(
    type='mmpretrain.VisionTransformer',
    arch='base',
    # That of the position table in the file; other sizes resize the table.
    img_size=518,
    patch_size=14,
    # The layer scales themselves come from the file.
    layer_scale_init_value=1e-5,
    out_type='featmap',
    out_indices=[2, 5, 8, 11],
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://mmassets.onedl.ai/mmpretrain/v1.0/dinov2/'
        'vit-base-p14_dinov2-pre_3rdparty_20230426-ba246503.pth',
        prefix='backbone.',
    ),
)
# Channels of the four maps, which are all of stride 14.
widths = [768] * 4
