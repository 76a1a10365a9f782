r"""E3VA (rank 8, frozen output norms) on Swin-L: RetinaNet, VOC 07+12.

Paper (table 6): we have no number for this row; it is missing from our
copy of the text. Not run here.

    python tools/train.py \
        configs/e3va/retinanet_swin-l_e3va-r8-fixed-norms_1x_voc0712.py
"""

_base_ = [
    '../_base_/models/retinanet_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x-2img_voc0712.py',
    '../_base_/tuners/e3va-r8-fixed-norms.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
