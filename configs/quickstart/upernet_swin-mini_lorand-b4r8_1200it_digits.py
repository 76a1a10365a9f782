r"""LoRand (4 branches, rank 8): UPerNet on digit scenes, with mmseg.

The segmentor of the paper's ADE20K table. Not part of tools/quickstart.sh,
which makes the scenes and the pre-trained backbone that this needs.

    python tools/train.py \
        configs/quickstart/upernet_swin-mini_lorand-b4r8_1200it_digits.py
"""

_base_ = [
    '_base_/models/upernet_swin-mini.py',
    '_base_/datasets/digits_ade.py',
    '_base_/schedules/adamw_1200it.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(type='mmlowrank.SwinLoRand', branches=4, rank=8))
