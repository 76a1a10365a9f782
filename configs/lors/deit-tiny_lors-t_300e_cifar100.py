r"""DeiT-Tiny with LORS^T on CIFAR-100 at 56 pixels: 2,603,812 parameters.

The twelve blocks share the weights of qkv, proj, fc1 and fc2. Ranks, terms,
pixels, patches and epochs are those of the authors' code, the training is
DeiT's; see README.md. The paper has no number for this row. Not run here.

    python tools/train.py configs/lors/deit-tiny_lors-t_300e_cifar100.py --amp
"""

_base_ = [
    '_base_/deit-tiny_56px.py',
    '_base_/cifar100_56px.py',
    '_base_/adamw_300e.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(
    backbone=dict(
        type='mmlowrank.StackSharedViT',
        lors_attn=dict(rank=32, terms=[1] * 9 + [2, 4, 6]),
        lors_ffn=dict(rank=32, terms=[6, 4, 2] + [1] * 9),
    )
)
