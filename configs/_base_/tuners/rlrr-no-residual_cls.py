"""RLRR, no residual (ablation, table 6)."""

_base_ = './rlrr_cls.py'

tuner = dict(residual=False)
