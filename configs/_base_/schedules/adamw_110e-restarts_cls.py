"""AdamW for 110 epochs: cosines of 10, 20, 40 and 80 epochs, no warm-up.

The schedule of the RLRR authors' FGVC code with strong augmentation. The
last cosine does not end.
"""

_base_ = './adamw_110e_cls.py'

# Their code sets the rate of a step after that epoch: the first two epochs
# run at the full rate, hence begin=1.
param_scheduler = dict(
    _delete_=True,
    type='CosineRestartLR',
    periods=[10, 20, 40, 80],
    restart_weights=[1.0] * 4,
    eta_min=0.0,
    begin=1,
)
