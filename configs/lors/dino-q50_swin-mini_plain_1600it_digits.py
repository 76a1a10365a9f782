r"""DINO on digit scenes: the small Swin, 50 queries, six decoder layers.

Needs the scenes and the pre-trained backbone that tools/quickstart.sh makes.

    python tools/train.py \
        configs/lors/dino-q50_swin-mini_plain_1600it_digits.py
"""

_base_ = [
    '_base_/dino_swin-mini.py',
    '_base_/adamw_1600it_digits.py',
    '../quickstart/_base_/datasets/digits_coco.py',
    '../_base_/default_runtime.py',
]

test_evaluator = dict(metric='bbox')
