r"""The small ViT of the quickstart on single digits, from scratch.

Needs the digits, which tools/quickstart.sh makes; README.md has the line
that makes them alone.

    python tools/train.py configs/lors/vit-mini_plain_200e_digits.py
"""

_base_ = ['../quickstart/pretrain_vit-mini_digits.py']

# The 60 epochs that make a start for others end while it still rises.
param_scheduler = dict(total_steps=200)
train_cfg = dict(max_epochs=200, val_interval=20)
default_hooks = dict(checkpoint=dict(interval=20))
work_dir = 'work_dirs/vit-mini_plain_200e_digits'
