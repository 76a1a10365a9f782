"""Runtime settings where all inputs of a training have one size."""

_base_ = './default_runtime.py'

# cuDNN tries its algorithms once for each size and keeps the fastest.
env_cfg = dict(cudnn_benchmark=True)
