"""The learning-rate schedule of timm, as training codes built on it run it."""

import math

from mmengine.optim.scheduler.param_scheduler import (
    INF,
    OptimizerType,
    _ParamScheduler,
)

from ..registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class TimmCosineLR(_ParamScheduler):
    r"""Linear warm-up, a cosine that has run meanwhile, a constant tail.

    What the authors of RLRR (and most codes that train with timm's cosine
    scheduler) run. In epoch e, counted from 0, with t = max(e - 1, 0) and
    c = (1 + cos(pi t / epochs)) / 2::

        t < warmup_epochs    warmup_lr + t (lr - warmup_lr) / warmup_epochs
        t < epochs           min_lr + c (lr - min_lr)
        otherwise            min_lr

    Two things in it are not what stock schedulers do, so that no chain of
    them gives these values: the first two epochs run at ``warmup_lr``,
    because the rate for t is set after epoch t; and the cosine counts from
    the start of training, so that the rate never reaches ``lr``.

    Args:
        optimizer: The optimizer, or its wrapper.
        epochs: Length of the cosine. Epochs beyond it ("cooldown") run at
            ``min_lr``.
        warmup_epochs: Length of the warm-up.
        warmup_lr: Rate in the first epochs, in every parameter group.
        min_lr: Rate at the end, in every parameter group.
        end: Epoch from which the rate stays what it is. mmengine sets it to
            the end of training.
        last_step: As in mmengine.
        verbose: As in mmengine.

    Raises:
        ValueError: If the warm-up is not shorter than the cosine.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        epochs: int,
        warmup_epochs: int = 0,
        warmup_lr: float = 0.0,
        min_lr: float = 0.0,
        end: int = INF,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        if not 0 <= warmup_epochs < epochs:
            raise ValueError(
                f'warmup_epochs={warmup_epochs} must be at least 0 and less '
                f'than epochs={epochs}'
            )
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.warmup_lr = warmup_lr
        self.min_lr = min_lr
        super().__init__(
            optimizer, 'lr', end=end, last_step=last_step, verbose=verbose
        )

    def _get_value(self) -> list[float]:
        return [self._value(lr) for lr in self.base_values]

    def _value(self, lr: float) -> float:
        t = max(self.last_step - 1, 0)
        if t < self.warmup_epochs:
            step = (lr - self.warmup_lr) / self.warmup_epochs
            return self.warmup_lr + t * step
        if t < self.epochs:
            cosine = (1 + math.cos(math.pi * t / self.epochs)) / 2
            return self.min_lr + (lr - self.min_lr) * cosine
        return self.min_lr
