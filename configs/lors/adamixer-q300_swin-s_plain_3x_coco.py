r"""AdaMixer on Swin-S: 300 queries, COCO.

Paper (table 3): box AP 51.3. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q300_swin-s_plain_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/adamixer_swin-s.py',
    '../_base_/datasets/coco_detection_crop.py',
    '../_base_/schedules/adamixer_3x-swin_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(queries=dict(num_queries=300))
