"""RLRR, left scale only (ablation, table 6)."""

_base_ = './rlrr_cls.py'

tuner = dict(sides=('left',))
