r"""RLRR on Swin-L: UPerNet, ADE20K.

The paper has no dense prediction: no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/rlrr/upernet_swin-l_rlrr_160k_ade20k.py 8
"""

_base_ = [
    '../_base_/models/upernet_swin-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/tuners/rlrr.py',
    '../_base_/default_runtime_one-size.py',
]
model = dict(backbone=_base_.tuner)
# The authors' code does not decay shifts; other biases decay as in the
# baselines on this head.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'.shift': dict(decay_mult=0.0)})
)
