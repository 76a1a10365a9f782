r"""LoRand+ (4 branches, rank 8) on Swin-T: Cascade Mask R-CNN, COCO.

The paper prints no number for this row (figure 5 draws it). Not run here.

    bash tools/dist_train.sh \
        configs/lorand/cascade-mask-rcnn_swin-t_lorand-b4r8_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-t.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/lorand-b4r8.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
