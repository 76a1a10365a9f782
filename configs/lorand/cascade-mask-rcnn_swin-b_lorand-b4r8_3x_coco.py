r"""LoRand+ (4 branches, rank 8) on Swin-B: Cascade Mask R-CNN, COCO.

Paper (table 2): box AP 51.20, mask AP 44.30. Not run here.

    bash tools/dist_train.sh \
        configs/lorand/cascade-mask-rcnn_swin-b_lorand-b4r8_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/lorand-b4r8.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
