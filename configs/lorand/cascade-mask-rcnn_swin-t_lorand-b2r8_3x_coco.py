r"""LoRand (2 branches, rank 8) on Swin-T: Cascade Mask R-CNN, COCO.

Paper (table 3a): box AP 50.2, mask AP 42.9. Not run here.

    bash tools/dist_train.sh \
        configs/lorand/cascade-mask-rcnn_swin-t_lorand-b2r8_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-t.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/lorand-b2r8.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
