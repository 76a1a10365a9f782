"""VTAB-1k: 19 classification tasks of 1,000 training images each.

Zhai et al., "A Large-scale Study of Representation Learning with the Visual
Task Adaptation Benchmark", 2019, in the list-file layout that papers on
parameter-efficient tuning share::

    <data_root>/<task>/train800val200.txt    1,000 images to train with
    <data_root>/<task>/test.txt              the whole test set
    <data_root>/<task>/train800.txt, val200.txt    to choose settings with

A line is ``relative/path.png label``, relative to the folder of the task.
"""

from pathlib import Path
from typing import Any

from ..registry import DATASETS
from .labelled_images import LabelledImages, one_of
from .vtab_tasks import TASKS

# What a config calls a split -> its list file.
SPLITS = {
    'train': 'train800val200.txt',
    'test': 'test.txt',
    'train800': 'train800.txt',
    'val200': 'val200.txt',
}


@DATASETS.register_module()
class VTAB1k(LabelledImages):
    """One task of VTAB-1k.

    In a config::

        dataset = dict(
            type='mmlowrank.VTAB1k', data_root='data/vtab-1k', task='cifar',
            split='train', pipeline=[...])

    Args:
        data_root: Folder that holds the folders of the tasks.
        task: One of the keys of :data:`vtab_tasks.TASKS`.
        split: ``'train'`` (1,000 images), ``'test'``, or, to choose
            settings without the test set, ``'train800'`` and ``'val200'``.
        **kwargs: Arguments of mmpretrain's BaseDataset.

    Raises:
        ValueError: If task or split is unknown, or a line of the list is
            not ``path label`` with a label of this task.
        FileNotFoundError: If the list file is missing.
    """

    def __init__(
        self, data_root: str, task: str, split: str, **kwargs: Any
    ) -> None:
        self.task = one_of(task, list(TASKS), 'task of VTAB-1k')
        one_of(split, list(SPLITS), 'split of VTAB-1k')
        super().__init__(
            data_root, f'{task}/{SPLITS[split]}', TASKS[task].classes, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        """Read the list file of the split."""
        path = Path(self.ann_file)
        try:
            lines = path.read_text().splitlines()
        except FileNotFoundError:
            raise FileNotFoundError(
                f'{path} does not exist. Download VTAB-1k as extracted image '
                'files with list files (https://github.com/dongzelian/SSF '
                'and https://github.com/ZhangYuanhan-AI/NOAH say where) and '
                'unpack it so that this file exists; or say where its '
                f'{len(TASKS)} folders are: VTAB_ROOT=FOLDER in the '
                f"environment, or data_root (now '{self.data_root}')"
            ) from None
        samples = [
            self._sample(path.parent, line, f'{path}, line {number}')
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
        if not samples:
            raise ValueError(f'{path} is empty. Unpack VTAB-1k again')
        return samples

    def _sample(self, folder: Path, line: str, where: str) -> dict:
        # From the right: a path may contain blanks.
        name, _, label = line.strip().rpartition(' ')
        classes = TASKS[self.task].classes
        if not name or not label.isdigit():
            raise ValueError(f"{where}: '{line}' is not 'path label'")
        if int(label) >= classes:
            raise ValueError(
                f'{where}: label {label} is out of range. {self.task} has '
                f'{classes} classes, 0 to {classes - 1}. Is it the list file '
                'of another task?'
            )
        return dict(img_path=str(folder / name), gt_label=int(label))
