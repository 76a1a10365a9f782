r"""E3VA (rank 8): UPerNet on digit scenes, with mmseg.

One of three tasks on one frozen backbone, see docs/serving.md. Not part of
tools/quickstart.sh, which makes the scenes and the pre-trained backbone that
this needs.

    python tools/train.py \
        configs/quickstart/upernet_swin-mini_e3va-r8_1200it_digits.py
"""

_base_ = [
    '_base_/models/upernet_swin-mini.py',
    '_base_/datasets/digits_ade.py',
    '_base_/schedules/adamw_1200it.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(type='mmlowrank.SwinE3VA', rank=8),
    # Pads an image of any size as the detectors do: one tensor for all tasks.
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
)
