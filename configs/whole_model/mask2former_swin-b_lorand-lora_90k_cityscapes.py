r"""A Mask2Former of ADE20K on Cityscapes: LoRand in Swin-B, LoRA in the head.

Backbone, pixel decoder and transformer decoder keep the weights of the model
that mmseg trained on ADE20K; what their tuners add trains, and the rest of
the head as a whole. No paper has this row. Not run here.

Cityscapes is where mmseg's config has it, in data/cityscapes.

    bash tools/dist_train.sh \
        configs/whole_model/mask2former_swin-b_lorand-lora_90k_cityscapes.py 8
"""

_base_ = (
    'mmseg::mask2former/'
    'mask2former_swin-b-in22k-384x384-pre_8xb2-90k_cityscapes-512x1024.py'
)

model = dict(
    type='mmlowrank.TunedModel',
    model='EncoderDecoder',
    # ImageNet's weights would be downloaded to be overwritten.
    backbone=dict(init_cfg=None),
    tuners={
        'backbone': dict(type='LoRand', branches=2, rank=8),
        'decode_head.pixel_decoder': dict(type='LoRA', rank=8, sites=('.*',)),
        'decode_head.transformer_decoder': dict(
            type='LoRA', rank=8, sites=('.*',)
        ),
    },
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/mask2former/'
        'mask2former_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640/'
        'mask2former_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640_'
        '20221203_235230-7ec0f569.pth',
    ),
)

optim_wrapper = dict(
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    # Not a tenth of the rate, as for a backbone that trains as a whole.
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            name: dict(decay_mult=0.0)
            for name in ('query_embed', 'query_feat', 'level_embed')
        },
    ),
)
custom_hooks = [dict(type='mmlowrank.FreezeAuditHook')]
default_hooks = dict(checkpoint=dict(type='mmlowrank.AdapterCheckpointHook'))
