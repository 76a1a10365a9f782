"""AdamW for 4 epochs of VOC 07+12 repeated 3 times, 1 GPU x 2 images."""

# E3VA names a batch size of 2, and the hours of its table 3 are those of
# 2 images per step in total, as in the VOC logs of the authors' later code.
_base_ = './adamw_1x_voc0712.py'

auto_scale_lr = dict(base_batch_size=2)
