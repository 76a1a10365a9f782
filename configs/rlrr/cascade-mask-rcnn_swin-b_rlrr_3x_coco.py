r"""RLRR on Swin-B: Cascade Mask R-CNN, COCO.

The paper has no dense prediction: no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/rlrr/cascade-mask-rcnn_swin-b_rlrr_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/rlrr.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
