r"""Full fine-tuning of Swin-T: Cascade Mask R-CNN, COCO.

LoRand paper (table 3a): box AP 50.5, mask AP 43.7. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-t_full_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-t.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/full.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
