"""AdamW for 400 iterations of batch 4, for methods that freeze the trunk."""

_base_ = 'adamw_800it.py'

param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 400
train_cfg = dict(max_iters=400)
