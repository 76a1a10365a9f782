"""A run goes on with its own checkpoint only."""

from pathlib import Path

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from torch.optim import Optimizer

from ..checkpoint.resuming import (
    Groups,
    beside,
    check_resumable,
    name_states,
    names_of,
    order_states,
)
from ..tuners.wrappers import unwrapped


def _names(runner: Runner) -> Groups | None:
    """Return the names in the optimizer's groups.

    None where there are several optimizers, or one of another framework.
    """
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if not isinstance(runner, Runner) or not isinstance(optimizer, Optimizer):
        return None
    parameters = (group['params'] for group in optimizer.param_groups)
    return names_of(unwrapped(runner.model), parameters)


class ResumeHook(Hook):
    """Let a run go on only with its own checkpoint, and its own best one.

    The state of the optimizer is saved by the names of the parameters.
    CheckpointHook removes the best checkpoint when there is a better; in a
    copied folder it would be the original's.
    """

    # Before a moving average is loaded.
    priority = 'HIGHEST'

    def before_train(self, runner: Runner) -> None:
        """Come before CheckpointHook reads the path."""
        name = Path(runner.work_dir).name
        own = {Path(runner.work_dir)} | {
            Path(hook.out_dir, name)
            for hook in getattr(runner, 'hooks', ())
            if isinstance(hook, CheckpointHook) and hook.out_dir
        }
        for key, path in runner.message_hub.runtime_info.items():
            if key.startswith('best_ckpt') and path and '://' not in path:
                here = beside(runner.work_dir, path)
                # Of a run in another folder, which keeps its own.
                kept = here if Path(here).parent in own else None
                runner.message_hub.update_info(key, kept)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Name what trains."""
        names, optimizer = _names(runner), checkpoint.get('optimizer')
        if names is not None and optimizer:
            name_states(optimizer, names)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare, before anything is loaded."""
        if not runner._resume:
            return
        names, model = _names(runner), unwrapped(runner.model)
        check_resumable(checkpoint, model)
        optimizer = checkpoint.get('optimizer')
        if names is not None and optimizer:
            order_states(optimizer, names, dict(model.named_parameters()))
