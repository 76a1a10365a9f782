"""Validations that a run was killed before, or in.

mmengine saves a checkpoint before it validates, and resumes behind both: a
run that is killed in between would lose the result, and with it perhaps its
best checkpoint.
"""

from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop


def ended(loop: BaseLoop) -> bool:
    """Whether a loop has nothing left to train."""
    # Loops that count iterations stay in epoch 0 of 1.
    if isinstance(loop, EpochBasedTrainLoop):
        return loop.epoch >= loop.max_epochs
    return loop.epoch >= loop.max_epochs or loop.iter >= loop.max_iters


def due(loop: BaseLoop) -> bool:
    """Whether a loop would have validated where it now goes on."""
    if isinstance(loop, EpochBasedTrainLoop):
        if loop.iter != loop.epoch * len(loop.dataloader):
            return False  # in the middle of an epoch
        done, last = loop.epoch, loop.max_epochs
    elif isinstance(loop, IterBasedTrainLoop):
        done, last = loop.iter, loop.max_iters
    else:
        return False
    loop._decide_current_val_interval()
    at_interval = done % loop.val_interval == 0 or done == last
    return done >= loop.val_begin and at_interval
