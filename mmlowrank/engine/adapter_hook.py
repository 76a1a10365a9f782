"""Checkpoints of what trains, for shipping."""

import re
import tempfile
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import BaseStorageBackend, put
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, weights_to_cpu

from ..checkpoint.adapters import save_adapter
from ..registry import HOOKS
from ..tuners import tuners_of
from ..tuners.wrappers import unwrapped

SUFFIX = '.safetensors'


@HOOKS.register_module()
class AdapterCheckpointHook(CheckpointHook):
    """Write adapter files, beside mmengine's checkpoints or instead of them.

    In a config::

        default_hooks = dict(checkpoint=dict(
            type='mmlowrank.AdapterCheckpointHook', interval=1,
            save_best='auto', max_keep_ckpts=3))

    writes ``epoch_3.pth``, from which a run goes on, and
    ``epoch_3.safetensors``, which :func:`~mmlowrank.save_adapter` describes:
    the tuner, neck and head, without the frozen backbone. With a moving
    average (``EMAHook``) the averaged weights are in it, as in the ``.pth``.
    Where nothing is frozen it would be the ``.pth`` again, and is left out.

    Args:
        full: Write the ``.pth``, too. Without, nothing can be resumed.
        kwargs: Those of mmengine's ``CheckpointHook``.
    """

    def __init__(self, full: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.full = full
        if not full:
            self.filename_tmpl = _twin(self.filename_tmpl)
        self._checkpoint: dict | None = None
        self._metrics: dict = {}

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.file_backend = _Pairs(self.file_backend)

    def after_train_epoch(self, runner: Runner) -> None:
        super().after_train_epoch(_Saver(runner, self))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any):
        super().after_train_iter(_Saver(runner, self), *args, **kwargs)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        self._metrics = dict(metrics)
        super().after_val_epoch(_Saver(runner, self), metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note what is saved, after EMAHook has put its average there."""
        self._checkpoint = checkpoint

    def save(self, runner: Runner, path: str, meta: dict, **kwargs: Any):
        """Write the files of one checkpoint.

        Args:
            runner: Of the run.
            path: Of the checkpoint.
            meta: ``epoch`` and ``iter``.
            kwargs: Of ``runner.save_checkpoint``.
        """
        folder, _, name = path.rpartition('/')
        if self.full:
            runner.save_checkpoint(folder, name, meta=dict(meta), **kwargs)
        model = unwrapped(runner.model)
        frozen = any(tuner.frozen() for tuner in tuners_of(model).values())
        if not is_main_process() or (self.full and not frozen):
            return
        if not self.full:
            state_dict = weights_to_cpu(model.state_dict())
            checkpoint = dict(meta=dict(meta), state_dict=state_dict)
            runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        state_dict, self._checkpoint = self._checkpoint['state_dict'], None
        about = dict(
            state_dict=state_dict,
            dataset_meta=_metainfo(runner),
            progress={key: meta[key] for key in ('epoch', 'iter')},
            metrics=self._metrics,
        )
        path = _twin(path)
        if '://' not in path:
            save_adapter(model, path, **about)
            return
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder, f'adapter{SUFFIX}')
            save_adapter(model, draft, **about)
            put(draft.read_bytes(), path, self.backend_args)


def _metainfo(runner: Runner) -> dict:
    return getattr(runner.train_dataloader.dataset, 'metainfo', {})


def _twin(path: str) -> str:
    """Return the adapter file beside a checkpoint."""
    return re.sub(r'\.(pth|safetensors)$', '', path) + SUFFIX


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
    """A file backend that removes a checkpoint with its adapter file."""

    def __init__(self, backend: BaseStorageBackend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def isfile(self, path: str) -> bool:
        """Whether one of the two is there."""
        return any(map(self._backend.isfile, {path, _twin(path)}))

    def remove(self, path: str) -> None:
        """Remove both."""
        for file in filter(self._backend.isfile, {path, _twin(path)}):
            self._backend.remove(file)
