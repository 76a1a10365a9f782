r"""A DINO of COCO on Pascal VOC: LoRand in Swin-L, LoRA in the transformer.

Backbone, encoder and decoder keep the weights of the detector that mmdet
trained on COCO; what their tuners add trains, and neck and head as a whole.
No paper has this row. Not run here.

VOC is expected in data/VOCdevkit; VOC_ROOT in the environment names another
folder.

    bash tools/dist_train.sh \
        configs/whole_model/dino_swin-l_lorand-lora_1x_voc0712.py 8
"""

_base_ = 'mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py'

model = dict(
    type='mmlowrank.TunedModel',
    model='DINO',
    # ImageNet's weights would be downloaded to be overwritten.
    backbone=dict(init_cfg=None),
    bbox_head=dict(num_classes=20),
    tuners={
        'backbone': dict(type='LoRand', branches=2, rank=8),
        'encoder': dict(type='LoRA', rank=8, sites=('.*',)),
        'decoder': dict(type='LoRA', rank=8, sites=('.*',)),
    },
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmdetection/v3.0/dino/'
        'dino-5scale_swin-l_8xb2-12e_coco/'
        'dino-5scale_swin-l_8xb2-12e_coco_20230228_072924-a654145f.pth',
    ),
)

data_root = r"""{{$VOC_ROOT:data/VOCdevkit/}}"""
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        # The only field in which the two years' metainfo differs.
        ignore_keys=['dataset_type'],
        datasets=[
            dict(
                type='VOCDataset',
                data_root=data_root,
                ann_file=f'{year}/ImageSets/Main/trainval.txt',
                data_prefix=dict(sub_data_root=f'{year}/'),
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=_base_.train_pipeline,
            )
            for year in ('VOC2007', 'VOC2012')
        ],
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='VOCDataset',
        data_root=data_root,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True, type='VOCMetric', metric='mAP', eval_mode='11points'
)
test_evaluator = val_evaluator

optim_wrapper = dict(
    constructor='mmlowrank.TunerOptimWrapperConstructor',
    # Not a tenth of the rate, as for a backbone that trains as a whole.
    paramwise_cfg=dict(_delete_=True),
)
custom_hooks = [dict(type='mmlowrank.FreezeAuditHook')]
default_hooks = dict(
    checkpoint=dict(type='mmlowrank.AdapterCheckpointHook', save_best='auto')
)
