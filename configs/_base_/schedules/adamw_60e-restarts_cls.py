"""AdamW for 60 epochs: a cosine of 5 epochs, again and again, no warm-up.

The schedule of the RLRR authors' code for CUB and Dogs.
"""

_base_ = './adamw_110e_cls.py'

# Their code sets the rate of a step after that epoch: the first two epochs
# run at the full rate, hence begin=1.
param_scheduler = dict(
    _delete_=True,
    type='CosineRestartLR',
    periods=[5] * 12,
    restart_weights=[1.0] * 12,
    eta_min=0.0,
    begin=1,
)
train_cfg = dict(max_epochs=60)
