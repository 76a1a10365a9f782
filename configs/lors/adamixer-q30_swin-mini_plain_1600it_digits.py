r"""AdaMixer on digit scenes: the small Swin, 30 queries, three stages.

Needs the scenes and the pre-trained backbone that tools/quickstart.sh makes.

    python tools/train.py \
        configs/lors/adamixer-q30_swin-mini_plain_1600it_digits.py
"""

_base_ = [
    '_base_/adamixer_swin-mini.py',
    '_base_/adamw_1600it_digits.py',
    '../quickstart/_base_/datasets/digits_coco.py',
    '../_base_/default_runtime.py',
]

test_evaluator = dict(metric='bbox')
