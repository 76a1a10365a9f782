"""The tables of configs/rlrr/README.md, from the configs and the paper."""

from pathlib import Path

from ..datasets.fgvc import CLASSES
from ..datasets.vtab_tasks import GROUPS, TASKS
from .counting import count_parameters
from .paper_tables import Row, load, read_tables

_FGVC = ('CUB_200_2011', 'NABirds', 'OxfordFlowers', 'StanfordDogs')
# Table of the paper -> its columns here, and the mean number of classes.
_MEANS = (*GROUPS, 'mean')
_NAMES = (*_FGVC, 'StanfordCars', 'mean')
_VTAB = sum(task.classes for task in TASKS.values()) / len(TASKS)
METHODS = {
    'table 2': (_MEANS, _VTAB),
    'table 3': (_NAMES, sum(CLASSES.values()) / len(CLASSES)),
    'table 4a': (_MEANS, _VTAB),
    'table 4b': (_MEANS, _VTAB),
    'table 5': (_MEANS, _VTAB),
    'table 6': (_NAMES, sum(CLASSES.values()) / len(CLASSES)),
}


def rows_of(configs: Path, name: str) -> list[Row]:
    """Return the rows of a table of the RLRR paper."""
    (table,) = (
        table
        for table in read_tables(configs)
        if (table.paper, table.name) == ('RLRR', name)
    )
    return table.rows


def methods(configs: Path, name: str) -> str:
    """Return a table of methods: counts and printed accuracies.

    Args:
        configs: The folder of the configs.
        name: One of :data:`METHODS`.
    """
    columns, classes = METHODS[name]
    head = (
        '| method | trainable in the backbone | with the mean head | paper |'
    )
    lines = [
        f'{head} {" | ".join(columns)} |',
        f'|---|---:|---:|---:|{"---:|" * len(columns)}',
    ]
    for row in rows_of(configs, name):
        printed = f'{row.params_m:.2f} M'
        cells = [str(row.row), '-', '-', printed, *['-'] * len(columns)]
        for leaf, scores in row.configs.items():
            found = scores.get('top-1 accuracy', {})
            backbone, whole = _counts(configs, leaf, classes)
            cells = [
                f'[{row.row}]({Path(leaf).name}.py)',
                f'{backbone:,}',
                f'{whole:,}',
                printed,
                *(str(found.get(column, '-')) for column in columns),
            ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def settings(configs: Path) -> str:
    """Return the settings of the tasks, with the paper's RLRR accuracies."""
    lines = [
        '| task | `VTAB_TASK` | classes | lr | dropout | weight decay | flip '
        '| ViT-B/16 | ViT-B/16, AugReg |',
        '|---|---|---:|---:|---:|---:|---|---:|---:|',
    ]
    leaf = 'rlrr/vit-b-p16_rlrr_110e_vtab1k'
    for folder, task in TASKS.items():
        cfg = load(configs, leaf, VTAB_TASK=folder)
        flips = 'RandomFlip' in str(cfg.train_dataloader.dataset.pipeline)
        cells = [task.title, f'`{folder}`', *_recipe(cfg)]
        cells.append('yes' if flips else 'no')
        cells += _scores(configs, 'table 2', folder)
        lines.append(f'| {" | ".join(cells)} |')
    lines += [
        '',
        '| data | `FGVC_NAME` | classes | lr | dropout | weight decay'
        ' | restarts | ViT-B/16 | ViT-B/16, AugReg |',
        '|---|---|---:|---:|---:|---:|---|---:|---:|',
    ]
    leaf = 'rlrr/vit-b-p16_rlrr_60e_fgvc'
    for folder in _NAMES[:-1]:
        cfg = load(configs, leaf, FGVC_NAME=folder)
        restarts = cfg.param_scheduler.type == 'CosineRestartLR'
        cells = [folder.replace('_', '-'), f'`{folder}`', *_recipe(cfg)]
        cells.append('yes' if restarts else 'no')
        cells += _scores(configs, 'table 3', folder)
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _recipe(cfg: dict) -> list[str]:
    optimizer = cfg.optim_wrapper.optimizer
    numbers = (optimizer.lr, cfg.dropout, optimizer.weight_decay)
    return [str(cfg.num_classes), *(f'{number:g}' for number in numbers)]


def _scores(configs: Path, table: str, part: str) -> list[str]:
    """Return the accuracies of RLRR and RLRR*."""
    return [
        str(scores['top-1 accuracy'][part])
        for row in rows_of(configs, table)
        if str(row.row).startswith('RLRR')
        for scores in row.configs.values()
    ]


def _counts(configs: Path, leaf: str, classes: float) -> tuple[int, int]:
    """Trainable parameters of the backbone, and with the mean head."""
    cfg = load(configs, leaf)
    counts = count_parameters(cfg)
    head = cfg.model.head
    last = (head.in_channels + 1) * (classes - head.num_classes)
    return (
        counts['backbone_trainable'],
        round(counts['model_trainable'] + last),
    )
