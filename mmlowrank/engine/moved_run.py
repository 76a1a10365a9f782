"""Checkpoints of a run whose folder was moved or copied.

mmengine writes down absolute paths, in ``last_checkpoint`` and in what a
checkpoint says of the best one.
"""

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner


def beside(folder: str | Path, written: str) -> str:
    """Return the checkpoint of that name in a folder; if none, as written."""
    here = Path(folder) / Path(written).name
    return str(here) if here.exists() else written


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """Return the newest whole checkpoint of a run; None if there is none.

    Raises:
        FileNotFoundError: If the checkpoint is gone.
        ValueError: If it is an adapter file.
    """
    note = Path(work_dir) / 'last_checkpoint'
    if not note.is_file():
        return None
    path = beside(work_dir, note.read_text().strip())
    if '://' not in path and not Path(path).exists():
        raise FileNotFoundError(
            f'{note} names {path}, which is not there. Put it back, pass '
            f'--resume another checkpoint, or remove {work_dir} to begin again'
        )
    if path.endswith('.safetensors'):
        raise ValueError(
            f'{path} is an adapter file, which has no state of the optimizer: '
            'begin a new run from it, with --cfg-options load_from=... and '
            "without --resume. Checkpoints to resume need the hook's full=True"
        )
    return path


class MovedRunHook(Hook):
    """Point a resumed run at its own best checkpoint.

    CheckpointHook removes it when there is a better one; in a copied folder
    it would be the original's.
    """

    def before_train(self, runner: Runner) -> None:
        """Come before CheckpointHook reads the path."""
        for key, path in runner.message_hub.runtime_info.items():
            if key.startswith('best_ckpt') and path:
                here = beside(runner.work_dir, path)
                runner.message_hub.update_info(key, here)
