"""Models and what training wraps them in."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside a distributed wrapper, or the model."""
    return model.module if is_model_wrapper(model) else model
