"""Checkpoints of what trains, for shipping and for going on."""

import re
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine._strategy import DDPStrategy, SingleDeviceStrategy
from mmengine.dist import is_main_process
from mmengine.fileio import BaseStorageBackend, put
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from torch import nn

from ..checkpoint.adapter_checks import base_of
from ..checkpoint.adapters import leave_out_base, save_adapter
from ..checkpoint.resuming import beside
from ..checkpoint.whole_file import whole_file
from ..registry import HOOKS
from ..tuners import tuners_of
from ..tuners.wrappers import unwrapped
from .replay import PROCESSES, states_of_processes

SUFFIX = '.safetensors'
_OF_ONE_FILE = (SingleDeviceStrategy, DDPStrategy)
# Key in a checkpoint's message hub: names of files that it replaces.
_REPLACED = 'replaced_ckpts'


@HOOKS.register_module()
class AdapterCheckpointHook(CheckpointHook):
    """Write checkpoints without what is frozen, and adapter files.

    In a config::

        default_hooks = dict(checkpoint=dict(
            type='mmlowrank.AdapterCheckpointHook', interval=1,
            save_best='auto', max_keep_ckpts=3))

    writes ``epoch_3.pth``, from which a run goes on, and
    ``epoch_3.safetensors``, which :func:`~mmlowrank.save_adapter` describes.
    Both have the tuner, neck and head, and not the frozen weights of the
    backbone, which come from its ``init_cfg``, are compared by a fingerprint,
    and are put back wherever one of the two is loaded. With a moving average
    (``EMAHook``) the averaged weights are in the adapter file, and both in
    the ``.pth``.

    Where the frozen weights are not those of ``init_cfg`` (``load_from``
    wrote them, or nothing did), the ``.pth`` has them. Where nothing is
    frozen there is no adapter file.

    A file gets its name when it is whole, and only then are older ones
    removed. What :class:`.ReplayHook` goes on from, of every process, is in
    the ``.pth``.

    Args:
        full: Keep the frozen weights in the ``.pth``.
        kwargs: Those of mmengine's ``CheckpointHook``.
    """

    def __init__(self, full: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.full = full
        # Fingerprints: before a checkpoint is loaded, then in training.
        self._bases: dict[str, str] | None = None
        self._processes: list[dict[str, Any]] | None = None
        self._metrics: dict = {}
        # Path and progress of what is being saved.
        self._saved: tuple[str, dict] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note what is about to be overwritten."""
        self._bases = _bases(unwrapped(runner.model))

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.file_backend = _Pairs(self.file_backend)
        # It may have been killed before it had removed them.
        if is_main_process():
            self._remove_left(runner.message_hub.runtime_info)
        model = unwrapped(runner.model)
        loaded_over, self._bases = self._bases, _bases(model)
        named = loaded_over in (None, self._bases) and all(
            tuner.source and tuner.has_base()
            for tuner in tuners_of(model).values()
        )
        if not self.full and not named:
            runner.logger.info(
                'The frozen weights are not those of init_cfg, so checkpoints '
                'have them'
            )
            self.full = True
        # Else a best one is not noted in the checkpoint resumed from.
        last = runner.message_hub.runtime_info.get('last_ckpt')
        self.last_ckpt = last and beside(self.out_dir, last)

    def _remove_left(self, info: dict[str, Any]) -> None:
        """Remove what a checkpoint replaced, if it is of this folder."""
        join, last = self.file_backend.join_path, info.get('last_ckpt')
        own = last and join(self.out_dir, last.rpartition('/')[2])
        if own and self.file_backend.isfile(own):
            for name in info.get(_REPLACED, ()):
                self.file_backend.remove(join(self.out_dir, name))
            self.file_backend.remove_replaced()

    def after_train_epoch(self, runner: Runner) -> None:
        super().after_train_epoch(_Saver(runner, self))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any):
        super().after_train_iter(_Saver(runner, self), *args, **kwargs)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        self._metrics = dict(metrics)
        super().after_val_epoch(_Saver(runner, self), metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the adapter file, after EMAHook has put its average there.

        It comes first: what is resumed from the ``.pth`` is never saved again.
        """
        if self._saved is None:
            return
        path, progress = self._saved
        # FlexibleRunner counts anew.
        checkpoint['meta'].update(progress)
        if self._processes is not None:
            checkpoint[PROCESSES] = self._processes
        model = unwrapped(runner.model)
        if not any(tuner.frozen() for tuner in tuners_of(model).values()):
            return
        about = dict(
            state_dict=checkpoint['state_dict'],
            dataset_meta=_metainfo(runner),
            progress=progress,
            metrics=self._metrics,
        )
        twin = _twin(path)
        if '://' not in twin:
            info = save_adapter(model, twin, **about)
        else:
            with tempfile.TemporaryDirectory() as folder:
                draft = Path(folder, f'adapter{SUFFIX}')
                info = save_adapter(model, draft, **about)
                put(draft.read_bytes(), twin, self.backend_args)
        if not self.full and any(
            self._bases.get(path) != tuner['base']
            for path, tuner in info['tuners'].items()
        ):
            # A teacher that follows its student does so with rounding.
            runner.logger.warning(
                'Something changed frozen weights, so checkpoints have them'
            )
            self.full = True
        if not self.full:
            name = path.rpartition('/')[2]
            leave_out_base(checkpoint, model, info, name)

    def save(self, runner: Runner, path: str, meta: dict, **kwargs: Any):
        """Write the files of one checkpoint.

        Args:
            runner: Of the run.
            path: Of the checkpoint.
            meta: ``epoch`` and ``iter``.
            kwargs: Of ``runner.save_checkpoint``.
        """
        self._saved = path, {key: meta[key] for key in ('epoch', 'iter')}
        replaced = self.file_backend.replaced_by(path)
        runner.message_hub.update_info(_REPLACED, replaced)
        if kwargs.get('save_optimizer', True):
            self._processes = states_of_processes(runner)
        # Other strategies write folders, in all processes.
        strategy = type(getattr(runner, 'strategy', None))
        one_file = isinstance(runner, Runner) or strategy in _OF_ONE_FILE
        local = one_file and '://' not in path
        draft = local and is_main_process()
        with whole_file(path) if draft else nullcontext(path) as place:
            folder, _, name = str(place).rpartition('/')
            runner.save_checkpoint(folder, name, meta=dict(meta), **kwargs)
        self._saved = self._processes = None
        self.file_backend.remove_replaced()


def _bases(model: nn.Module) -> dict[str, str]:
    return {path: base_of(tuner) for path, tuner in tuners_of(model).items()}


def _metainfo(runner: Runner) -> dict:
    return getattr(runner.train_dataloader.dataset, 'metainfo', {})


def _twin(path: str) -> str:
    """Return the adapter file beside a checkpoint."""
    return re.sub(r'\.pth$', '', path) + SUFFIX


class _Saver:
    """A runner for ``CheckpointHook``, of which one method is ours."""

    def __init__(self, runner: Runner, hook: AdapterCheckpointHook) -> None:
        self._runner, self._hook = runner, hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the place of ``Runner.save_checkpoint``."""
        kwargs['file_client_args'] = file_client_args
        path = self._hook.file_backend.join_path(out_dir, filename)
        self._hook.save(self._runner, path, **kwargs)


class _Pairs:
    """A file backend that removes a checkpoint with its adapter file.

    ``CheckpointHook`` removes before it writes. Here that waits, so that a
    run which is killed in between still has one of the two.
    """

    def __init__(self, backend: BaseStorageBackend) -> None:
        self._backend = backend
        self._replaced: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def isfile(self, path: str) -> bool:
        """Whether one of the two is there."""
        return any(map(self._backend.isfile, (path, _twin(path))))

    def remove(self, path: str) -> None:
        """Let both be removed after the next checkpoint."""
        self._replaced |= {path, _twin(path)}

    def replaced_by(self, path: str) -> list[str]:
        """Return the names of what goes when a checkpoint is written."""
        self._replaced -= {path, _twin(path)}
        return sorted(name.rpartition('/')[2] for name in self._replaced)

    def remove_replaced(self) -> None:
        """Remove what waits for it."""
        for file in filter(self._backend.isfile, self._replaced):
            self._backend.remove(file)
        self._replaced.clear()
