"""A moving average of what trains."""

from typing import Any

from mmengine.model import ExponentialMovingAverage
from torch import nn

from ..registry import MODELS
from ..tuners import CHILD, tuners_of


@MODELS.register_module()
class TrainedEMA(ExponentialMovingAverage):
    """mmengine's moving average, with the frozen weights of the model.

    ``EMAHook`` copies the model. Here the frozen weights of its tuned
    backbones are the model's own in the copy, too: they take no memory and
    no time, and the average is the same to the bit. In a config::

        custom_hooks = [dict(type='EMAHook', ema_type='mmlowrank.TrainedEMA')]

    Args:
        model: The model to be averaged.
        kwargs: Those of mmengine's ``ExponentialMovingAverage``.
    """

    def __init__(self, model: nn.Module, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        for path, tuner in tuners_of(model).items():
            for name, tensor in tuner.frozen().items():
                name = path.removesuffix(CHILD) + name
                owner, _, leaf = name.rpartition('.')
                copy = self.module.get_submodule(owner)
                if tensor.device == getattr(copy, leaf).device:
                    setattr(copy, leaf, tensor)
                    self.avg_parameters.pop(name, None)
