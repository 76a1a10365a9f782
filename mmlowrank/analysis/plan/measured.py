"""What a real step takes, for a plan to be compared with."""

from dataclasses import replace

import torch
from mmengine.config import Config
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..measuring import peak_bytes, weight_bytes
from .batch import image_scale, make_batch, resized
from .step import (
    Setting,
    build_model,
    build_wrapper,
    forward_context,
    one_step,
    plan_step,
)


def verify_step(cfg: Config, setting: Setting) -> tuple[int, int]:
    """Return the peak of a step at the start of training: planned, measured.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.
        setting: Its ``device`` is where the real step runs.
    """
    setting = replace(setting, found=False)
    return plan_step(cfg, setting).peak, measure_step(cfg, setting)


def measure_step(cfg: Config, setting: Setting) -> int:
    """Return the peak of a real step of a config, in bytes.

    Of the second one, so that the optimizer has its state. The batch is that
    of the plan, and the weights are at their random start. On a CPU it is
    what the allocator hands out, what operations take inside included.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.
        setting: As of the plan, with ``found=False``; ``device='cuda'``
            needs a GPU.
    """
    torch.manual_seed(0)
    cfg = resized(cfg, setting.scale)
    images = setting.batch or cfg.train_dataloader.batch_size
    scale = setting.scale or image_scale(cfg)
    batch = make_batch(cfg, images, scale, setting.objects)
    model = build_model(cfg)
    model.init_weights()
    if setting.change:
        setting.change(model)
    model.to(setting.device)
    wrapper = build_wrapper(cfg, model, setting.device)

    def step() -> None:
        context = forward_context(cfg, setting.device, planned=False)
        one_step(model, wrapper, batch, context)

    step()
    state = tree_leaves([*wrapper.optimizer.state.values(), batch['inputs']])
    there = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in state
        if isinstance(tensor, Tensor) and tensor.device.type == setting.device
    }
    peak = peak_bytes(step, setting.device)
    return peak + weight_bytes(model) + sum(there.values())
