"""A hook for runs that were killed in their last validation."""

from mmengine.hooks import Hook
from mmengine.runner import Runner


class LastValidationHook(Hook):
    """Validate a resumed model that has nothing left to train.

    mmengine saves a checkpoint before it validates, and resumes behind both:
    a run that is killed in between would never have its result.
    """

    def before_train(self, runner: Runner) -> None:
        """Validate where the checkpoint is the last one."""
        # Loops that count iterations stay in epoch 0 of 1.
        ended = (
            runner.epoch >= runner.max_epochs
            or runner.iter >= runner.max_iters
        )
        if ended and runner.val_loop is not None:
            runner.logger.info('Nothing is left to train; validates again')
            runner.val_loop.run()
