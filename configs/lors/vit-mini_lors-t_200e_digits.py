r"""The small ViT with LORS^T: its six blocks share their linear layers.

The terms are every second one of DeiT-Tiny's. Needs the digits, as
vit-mini_plain_200e_digits.py does.

    python tools/train.py configs/lors/vit-mini_lors-t_200e_digits.py
"""

_base_ = ['vit-mini_plain_200e_digits.py']

model = dict(
    backbone=dict(
        type='mmlowrank.StackSharedViT',
        lors_attn=dict(rank=8, terms=[1, 1, 1, 1, 2, 6]),
        lors_ffn=dict(rank=8, terms=[6, 2, 1, 1, 1, 1]),
    )
)
work_dir = 'work_dirs/vit-mini_lors-t_200e_digits'
