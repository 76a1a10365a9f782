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
# The authors' code does not decay shifts; other biases decay as in the
# baselines on this head.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'.shift': dict(decay_mult=0.0)})
)
