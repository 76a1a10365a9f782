r"""DINO with LORS^T on digit scenes: one weight for six decoder layers.

Needs the scenes and the pre-trained backbone that tools/quickstart.sh makes.

    python tools/train.py \
        configs/lors/dino-q50_swin-mini_lors-t_800it_digits.py
"""

_base_ = [
    '_base_/dino_swin-mini.py',
    '_base_/adamw_800it_digits.py',
    '../quickstart/_base_/datasets/digits_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='mmlowrank.StackSharedModel',
    model='DINO',
    stacks={'decoder.layers': dict(rank=4)},
)
test_evaluator = dict(metric='bbox')
