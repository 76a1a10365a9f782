r"""AdaMixer with LORS on Swin-S with E3VA (rank 8): COCO.

The papers print no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q300_swin-s_lors-e3va-r8_3x_coco.py 8
"""

_base_ = [
    '../_base_/models/adamixer_swin-s.py',
    '../_base_/datasets/coco_detection_crop.py',
    '../_base_/schedules/adamixer_3x-swin_coco.py',
    '../_base_/decoders/lors.py',
    '../_base_/tuners/e3va-r8.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=_base_.tuner, decoder=_base_.lors, queries=dict(num_queries=300)
)
