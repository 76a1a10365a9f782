"""Validations that a run was killed before, or in."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import (
    BaseLoop,
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    Runner,
)

# File in the work dir, beside mmengine's last_checkpoint.
_NOTE = 'last_validation'


class LastValidationHook(Hook):
    """Make up for the validation of the checkpoint that a run goes on from.

    mmengine saves a checkpoint before it validates, and resumes behind both:
    a run that is killed in between would lose the result, and with it perhaps
    its best checkpoint. Where nothing is left to train, it validates in any
    case, so that there is a result.
    """

    # The checkpoint hook must be ready before, and done after.
    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Validate if that is due and was not finished."""
        loop, note = runner.train_loop, Path(runner.work_dir, _NOTE)
        if not loop.iter and is_main_process():
            note.unlink(missing_ok=True)  # of another run
        if not loop.iter or runner.val_loop is None:
            return
        if _ended(loop):
            runner.logger.info('Nothing is left to train; validates again')
        elif not _due(loop) or (
            note.is_file() and note.read_text() == _progress(runner)
        ):
            return
        else:
            runner.logger.info(
                'Validates first, which may have been interrupted'
            )
        runner.val_loop.run()

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Note that it is finished."""
        if is_main_process():
            Path(runner.work_dir, _NOTE).write_text(_progress(runner))


def _progress(runner: Runner) -> str:
    return f'epoch {runner.epoch}, iteration {runner.iter}\n'


def _ended(loop: BaseLoop) -> bool:
    # Loops that count iterations stay in epoch 0 of 1.
    if isinstance(loop, EpochBasedTrainLoop):
        return loop.epoch >= loop.max_epochs
    return loop.epoch >= loop.max_epochs or loop.iter >= loop.max_iters


def _due(loop: BaseLoop) -> bool:
    """Whether the loop would have validated where it now goes on."""
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
