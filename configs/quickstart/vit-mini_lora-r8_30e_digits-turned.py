r"""LoRA (rank 8) on the small ViT: digits on their side.

    python tools/train.py \
        configs/quickstart/vit-mini_lora-r8_30e_digits-turned.py
"""

_base_ = [
    '_base_/models/vit-mini_cls.py',
    '_base_/datasets/digits_turned.py',
    '_base_/schedules/adamw_30e_cls.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(tuner=dict(type='LoRA', rank=8)))
