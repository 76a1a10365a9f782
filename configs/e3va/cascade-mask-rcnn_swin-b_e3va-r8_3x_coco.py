r"""E3VA (rank 8) on Swin-B: Cascade Mask R-CNN, COCO.

Paper (table 2): box AP 50.5, mask AP 43.8. Not run here.

    bash tools/dist_train.sh \
        configs/e3va/cascade-mask-rcnn_swin-b_e3va-r8_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/e3va-r8.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
