r"""DeiT-Tiny on CIFAR-100 at 56 pixels: 5,405,476 parameters.

What LORS^T is compared with. The paper has no number for this row. Not run
here.

    python tools/train.py configs/lors/deit-tiny_plain_300e_cifar100.py --amp
"""

_base_ = [
    '_base_/deit-tiny_56px.py',
    '_base_/cifar100_56px.py',
    '_base_/adamw_300e.py',
    '../_base_/default_runtime_one-size.py',
]
