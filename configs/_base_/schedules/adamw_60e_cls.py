"""AdamW for 60 epochs: a cosine over 50 and a tail.

The schedule of the RLRR authors' code for NABirds, Flowers and Cars.
"""

_base_ = './adamw_110e_cls.py'

param_scheduler = dict(epochs=50)
train_cfg = dict(max_epochs=60)
