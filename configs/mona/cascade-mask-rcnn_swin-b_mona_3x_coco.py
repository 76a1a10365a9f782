r"""Mona on Swin-B: Cascade Mask R-CNN, COCO.

Paper: box AP 53.4. Not run here.

    bash tools/dist_train.sh \
        configs/mona/cascade-mask-rcnn_swin-b_mona_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/tuners/mona.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
