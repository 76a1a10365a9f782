r"""RLRR on DINOv2-B: Mask R-CNN, COCO.

No paper has this row. Not run here.

    bash tools/dist_train.sh \
        configs/dinov2/mask-rcnn_dinov2-b_rlrr_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/mask-rcnn_dinov2-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/rlrr.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(tuner=dict(_base_.tuner, type='RLRR')))
# As in the other dense configs of RLRR: shifts do not decay.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'.shift': dict(decay_mult=0.0)})
)
