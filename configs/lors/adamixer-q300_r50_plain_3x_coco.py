r"""AdaMixer on ResNet-50: 300 queries, COCO.

Paper (table 3): box AP 47.0. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q300_r50_plain_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/adamixer_r50.py',
    '../_base_/datasets/coco_detection_crop.py',
    '../_base_/schedules/adamixer_3x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(queries=dict(num_queries=300))
