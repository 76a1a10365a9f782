r"""AdaMixer with LORS on ResNet-50: 100 queries, COCO.

Paper (table 3): box AP 43.7. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_lors_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/adamixer_r50.py',
    '../_base_/datasets/coco_detection_crop.py',
    '../_base_/schedules/adamixer_3x_coco.py',
    '../_base_/decoders/lors.py',
    '../_base_/default_runtime.py',
]
model = dict(decoder=_base_.lors)
