r"""Full fine-tuning of Swin-S: Cascade Mask R-CNN, COCO.

LoRand paper (table 3a): box AP 51.8, mask AP 44.7. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-s_full_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-s.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/full.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
