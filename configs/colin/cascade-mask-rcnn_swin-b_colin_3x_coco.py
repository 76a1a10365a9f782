r"""CoLin on Swin-B: Cascade Mask R-CNN, COCO.

Paper: box AP 52.9. Not run here.

    bash tools/dist_train.sh \
        configs/colin/cascade-mask-rcnn_swin-b_colin_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/colin.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
