r"""E3VA (rank 8, stacked adapters) on Swin-L: RetinaNet, VOC 07+12.

Paper (table 5): AP 85.9. Not run here.

    python tools/train.py \
        configs/e3va/retinanet_swin-l_e3va-r8-stacked_1x_voc0712.py
"""

_base_ = [
    '../_base_/models/retinanet_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x-2img_voc0712.py',
    '../_base_/tuners/e3va-r8-stacked.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
