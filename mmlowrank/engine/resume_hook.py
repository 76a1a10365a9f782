"""A run goes on with its own checkpoint only."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..checkpoint.resuming import TRAINED, beside, check_resumable, names_of
from ..tuners.wrappers import unwrapped


def _optimized(runner: Runner) -> list[nn.Parameter] | None:
    """Return the parameters in the optimizer's order; None of several."""
    groups = getattr(runner.optim_wrapper, 'param_groups', None)
    if not isinstance(groups, list):
        return None
    return [parameter for group in groups for parameter in group['params']]


class ResumeHook(Hook):
    """Let a run go on only with its own checkpoint, and its own best one.

    CheckpointHook removes the best one when there is a better; in a copied
    folder it would be the original's.
    """

    def before_train(self, runner: Runner) -> None:
        """Come before CheckpointHook reads the path."""
        for key, path in runner.message_hub.runtime_info.items():
            if key.startswith('best_ckpt') and path:
                here = beside(runner.work_dir, path)
                runner.message_hub.update_info(key, here)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note what trains."""
        optimized = _optimized(runner)
        if optimized is not None:
            names = names_of(unwrapped(runner.model), optimized)
            checkpoint['meta'][TRAINED] = names

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare, before anything is loaded."""
        optimized = _optimized(runner)
        if runner._resume and optimized is not None:
            check_resumable(checkpoint, unwrapped(runner.model), optimized)
