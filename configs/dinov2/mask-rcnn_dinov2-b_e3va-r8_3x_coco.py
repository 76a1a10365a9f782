r"""E3VA (rank 8) on DINOv2-B: Mask R-CNN, COCO.

No paper has this row. Not run here.

    bash tools/dist_train.sh \
        configs/dinov2/mask-rcnn_dinov2-b_e3va-r8_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/mask-rcnn_dinov2-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/e3va-r8.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(tuner=dict(_base_.tuner, type='E3VA')))
