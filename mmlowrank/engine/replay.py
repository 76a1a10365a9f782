"""A run that was interrupted goes on as if it had not been.

What the main process draws goes on from the states in the checkpoint. These
must be put back at the right moment: an iterator over the data draws when it
is made, and a resumed run has to make one where the other had one already.
Workers are ahead of what is trained on, by no fixed number of batches, so
their states say nothing: they draw each batch from a seed of its own
(:mod:`.data_order`).
"""

from typing import Any

from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.utils import apply_to
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..checkpoint.adapters import own_state
from ..registry import HOOKS
from ..tuners.wrappers import unwrapped
from .data_order import Endless, Items, Order
from .missed_validation import due, ended
from .random_states import get_states, set_states

# Keys in a checkpoint: what each process has of its own, and, in its meta,
# passes over the data that were ended, batches done of the next, and batches
# of a pass; and whether the validation of the checkpoint was over.
PROCESSES = 'processes'
POSITION = 'position'
VALIDATED = 'validated'


@HOOKS.register_module()
class ReplayHook(Hook):
    """Let a resumed run draw what it would have drawn, and load the rest.

    ``tools/train.py`` adds it. With another tool, in a config::

        custom_hooks = [dict(type='mmlowrank.ReplayHook')]

    The training data continues behind the last batch of the checkpoint, in
    the middle of an epoch too, and no skipped batch is loaded. Accumulated
    gradients are those of the checkpoint. A validation that the checkpoint
    does not know of is made first, and also where nothing is left to train,
    so that there is a result.

    A data set that is only iterated (``IterableDataset``), or a loop of
    another kind, is left as it is. Transforms that keep something from one
    sample for the next, as a cached mosaic does, begin without it.
    """

    # All other hooks are ready before it validates.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._order: Order | None = None
        # Of the checkpoint that is resumed from.
        self._own: dict[str, Any] | None = None
        self._position: tuple[int, int, int] | None = None
        self._validated = False
        # States while a validation draws that must not count.
        self._aside: dict[str, Any] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note what there is to go on from."""
        if not runner._resume:
            return
        meta = checkpoint['meta']
        self._position = meta.get(POSITION)
        self._validated = meta.get(VALIDATED, False)
        # They were loaded to where the model is.
        processes = checkpoint.pop(PROCESSES, [])
        if len(processes) == runner.world_size:
            self._own = apply_to(
                processes[get_rank()],
                lambda value: isinstance(value, Tensor),
                Tensor.cpu,
            )
        else:
            runner.logger.warning(
                f'The checkpoint has the random states of {len(processes)} '
                f'processes, here are {runner.world_size}: what is drawn '
                'begins anew'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write down where the run is."""
        meta = checkpoint['meta']
        now = dict(epoch=runner.epoch, iter=runner.iter)
        meta[VALIDATED] = all(meta[key] == now[key] for key in now)
        if self._order is not None:
            meta[POSITION] = self._order.position(meta['epoch'], meta['iter'])
        if 'optimizer' in checkpoint and PROCESSES not in checkpoint:
            # By a hook that does not ask the other processes.
            checkpoint[PROCESSES] = [self.state_of_process(runner)]

    def state_of_process(self, runner: Runner) -> dict[str, Any]:
        """Return what a checkpoint needs of each process."""
        own = dict(random=self._aside or get_states())
        if self._order is not None:
            own['order'] = self._order.begun
        model = unwrapped(runner.model)
        if runner.world_size > 1:
            # Statistics move in each process by itself.
            moving = own_state(model).keys() & dict(model.named_buffers())
            own['buffers'] = {
                name: model.get_buffer(name).cpu() for name in moving
            }
        if _accumulates(runner.optim_wrapper):
            # Not yet summed over the processes.
            own['gradients'] = {
                name: parameter.grad.cpu()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        return own

    def before_train(self, runner: Runner) -> None:
        """Take over the data, go back to the checkpoint, validate."""
        self._take_over(runner)
        if self._own is not None:
            set_states(self._own['random'])
            _restore(runner, self._own)
        loop = runner.train_loop
        if runner.val_loop is not None and loop.iter:
            if ended(loop):
                runner.logger.info('Nothing is left to train; validates again')
                runner.val_loop.run()
            elif due(loop) and not self._validated:
                runner.logger.info('Validates first: that was interrupted')
                runner.val_loop.run()
        if self._own is not None and self._order is not None:
            self._order.now = get_states()
        self._own = None

    def _take_over(self, runner: Runner) -> None:
        loop = runner.train_loop
        loader = getattr(loop, 'dataloader', None)
        if (
            not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop))
            or not isinstance(loader, DataLoader)
            or isinstance(loader.dataset, IterableDataset)
            or loader.batch_sampler is None
        ):
            runner.logger.info(
                'Data and loop are not of the kinds that ReplayHook knows: a '
                'resumed run will see other data'
            )
            return
        endless = isinstance(loop, IterBasedTrainLoop)
        self._order = Order(loader, runner.seed, endless)
        if self._own is not None:
            self._order.begun = self._own.get('order')
        # DataLoader lets nobody set it, because an iterator would not notice.
        object.__setattr__(loader, 'batch_sampler', self._order)
        if loader.num_workers:
            loader.dataset.__getitems__ = Items(loader.dataset)
        # In a checkpoint that does not say, loops without epochs count on.
        count = len(self._order)
        unknown = (0, loop.iter, count) if endless else (loop.epoch, 0, count)
        passes, done, of = self._position or unknown
        if done and of != count:
            runner.logger.warning(
                f'The checkpoint is of the middle of {of} batches, which are '
                f'{count} here (another batch size or number of processes): '
                'what is seen next is not what would have been'
            )
            passes, done, _ = unknown
            self._order.begun = None
        self._order.start(passes, loop.iter - done, done)
        if endless:
            # Older versions of mmengine's have asked the loader already.
            iterator = type(loop.dataloader_iterator)(loader)
            loop.dataloader_iterator = Endless(iterator, loop.iter)

    def before_train_epoch(self, runner: Runner) -> None:
        """Say at which iteration the pass begins."""
        order = self._order
        if order is not None and not order.endless:
            skip = order.skip_once()
            order.start(runner.epoch, runner.iter - skip, skip)

    def before_val(self, runner: Runner) -> None:
        """Remember the states, if a resumed run would draw in other places.

        Workers that persist are started in the first validation after each
        start of the run, for which the main process draws.
        """
        loader = getattr(runner.val_loop, 'dataloader', None)
        if getattr(loader, 'persistent_workers', False):
            self._aside = get_states()

    def after_val(self, runner: Runner) -> None:
        """Go back to them."""
        if self._aside is not None:
            set_states(self._aside)
            self._aside = None


def states_of_processes(runner: Runner) -> list[dict[str, Any]] | None:
    """Return what a checkpoint needs of all processes, which all call this.

    None if nobody asked for it.
    """
    for hook in runner.hooks:
        if isinstance(hook, ReplayHook):
            return all_gather_object(hook.state_of_process(runner))
    return None


def _accumulates(wrapper: OptimWrapper | OptimWrapperDict) -> bool:
    """Whether gradients wait for those of further iterations."""
    several = isinstance(wrapper, OptimWrapperDict)
    wrappers = wrapper.values() if several else [wrapper]
    # Those of other frameworks do not say.
    kinds = (w for w in wrappers if isinstance(w, OptimWrapper))
    return any(not w.should_update() for w in kinds)


def _restore(runner: Runner, own: dict[str, Any]) -> None:
    """Put statistics and accumulated gradients back, if there are any."""
    model = unwrapped(runner.model)
    for name, values in own.get('buffers', {}).items():
        model.get_buffer(name).copy_(values)
    if 'gradients' not in own:
        return
    for name, gradient in own['gradients'].items():
        parameter = model.get_parameter(name)
        parameter.grad = gradient.to(parameter.device)
    runner.logger.info(
        'The accumulated gradients are those of the checkpoint: none is lost'
    )
