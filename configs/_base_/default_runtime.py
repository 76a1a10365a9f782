"""Runtime settings that no framework, loop or data set changes."""

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
custom_hooks = [dict(type='mmlowrank.FreezeAuditHook')]
log_level = 'INFO'
load_from = None
resume = False
