r"""AdaptFormer (hidden width 64) on Swin-L: RetinaNet, VOC 07+12.

E3VA paper (table 1): AP 87.3. Not run here.

    python tools/train.py \
        configs/baselines/retinanet_swin-l_adaptformer-64_1x_voc0712.py
"""

_base_ = [
    '../_base_/models/retinanet_swin-l.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/adamw_1x-2img_voc0712.py',
    '../_base_/tuners/adaptformer-64.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=_base_.tuner)
