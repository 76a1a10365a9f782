r"""AdaMixer with LORS on digit scenes: one generator for three stages.

Needs the scenes and the pre-trained backbone that tools/quickstart.sh makes.

    python tools/train.py \
        configs/lors/adamixer-q30_swin-mini_lors_1600it_digits.py
"""

_base_ = [
    '_base_/adamixer_swin-mini.py',
    '_base_/adamw_1600it_digits.py',
    '../quickstart/_base_/datasets/digits_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    decoder=dict(
        lors_adaptive=dict(rank=4, terms=[1, 2, 3]),
        lors_static=dict(rank=4),
    )
)
test_evaluator = dict(metric='bbox')
