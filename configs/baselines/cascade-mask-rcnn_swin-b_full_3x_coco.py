r"""Full fine-tuning of Swin-B: Cascade Mask R-CNN, COCO.

LoRand paper (table 2): box AP 51.90, mask AP 45.00.
E3VA paper (table 2): box AP 51.9, mask AP 45.0.
Mona paper: box AP 52.4. Not run here.

    bash tools/dist_train.sh \
        configs/baselines/cascade-mask-rcnn_swin-b_full_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/full.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
