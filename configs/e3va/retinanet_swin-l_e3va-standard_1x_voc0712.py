r"""E3VA (dense adapters, hidden width 32) on Swin-L: RetinaNet, VOC 07+12.

Paper (table 5): AP 85.4. Not run here.

    python tools/train.py \
        configs/e3va/retinanet_swin-l_e3va-standard_1x_voc0712.py
"""

_base_ = [
    '../_base_/models/retinanet_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x-2img_voc0712.py',
    '../_base_/tuners/e3va-standard.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
