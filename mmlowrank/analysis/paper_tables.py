"""What the papers print, which config stands for it, and what is made of it.

``configs/paper_tables.yml`` has the printed rows. From it and the configs
come the metafiles, ``configs/README.md`` and the tables of ``configs/rlrr``.
"""

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from mmengine.config import Config
from torch import nn

from ..tuners import tuners_of
from .counting import build_on_meta

# The data set where a config leaves it to the environment. Of what is read
# from a config here, only the size of the head depends on it.
EXAMPLES = dict(VTAB_TASK='cifar', FGVC_NAME='CUB_200_2011')
_TASKS = {
    'AP': 'Object Detection',
    'box AP': 'Object Detection',
    'mask AP': 'Instance Segmentation',
    'mIoU': 'Semantic Segmentation',
    'top-1 accuracy': 'Image Classification',
}
_DATA = {
    'coco': 'COCO',
    'ade20k': 'ADE20K',
    'voc0712': 'VOC 2007',
    'vtab1k': 'VTAB-1k',
    'fgvc': 'FGVC',
    'cifar100': 'CIFAR-100',
}


@dataclass(frozen=True)
class Row:
    """A printed row.

    Attributes:
        row: What the paper calls it.
        params_m: Printed trainable parameters, in millions.
        configs: Config, relative to ``configs`` and without ``.py`` -> its
            printed scores.
        why: Why there is no config.
        points: How many printed points it stands for.
        options: ``--cfg-options`` that make the others from the config.
        memory_mb: Printed memory of training, in MB.
        images: A GPU, where a row says it.
        trains_on: The cards that the paper says it trains on.
    """

    row: str | int
    params_m: float | None = None
    configs: dict[str, dict] = field(default_factory=dict)
    why: str = ''
    points: int = 1
    options: str = ''
    memory_mb: int | None = None
    images: int | None = None
    trains_on: list[str] | None = None


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper."""

    paper: str
    name: str
    what: str
    rows: list[Row]


def read_tables(configs: Path) -> list[Table]:
    """Return the tables of all papers, in the order of the file.

    Args:
        configs: The folder of the configs.
    """
    return [
        Table(
            paper,
            table['name'],
            table['what'],
            [Row(**row) for row in table['rows']],
        )
        for paper, entry in _read(configs)['papers'].items()
        for table in entry['tables']
    ]


def leaves(configs: Path, folder: str) -> list[str]:
    """Return the configs of a folder, as :attr:`Row.configs` names them.

    Those of the digits that are made here belong to no paper.
    """
    stems = (path.stem for path in (configs / folder).glob('*.py'))
    return sorted(f'{folder}/{s}' for s in stems if not s.endswith('_digits'))


def load(configs: Path, leaf: str, **environment: str) -> Config:
    """Read a config, with an example of what it takes from the environment.

    Args:
        configs: The folder of the configs.
        leaf: As in :attr:`Row.configs`.
        **environment: Instead of the example, e.g. ``VTAB_TASK='dtd'``.
    """
    with patch.dict(os.environ, {**EXAMPLES, **environment}):
        return Config.fromfile(configs / f'{leaf}.py')


def metafile(configs: Path, folder: str) -> str:
    """Return the text of a folder's metafile.yml."""
    data = _read(configs)
    collections = data['collections'][folder]
    models = [
        _model(configs, leaf, collections) for leaf in leaves(configs, folder)
    ]
    content = dict(
        Collections=[
            _collection(entry, folder, models, data['papers'])
            for entry in collections
        ],
        Models=models,
    )
    return (
        '# Made by tools/analysis_tools/paper_tables.py. The scores are those '
        'that the\n# papers print; nothing here has been trained by this '
        'project, so there are no\n# weights.\n'
    ) + yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, width=10**6
    )


def coverage(configs: Path) -> str:
    """Return the table of the tables: rows printed, here and left out."""
    lines = [
        '| paper | table | what it compares | printed | here | left out |',
        '|---|---|---|---:|---:|---|',
    ]
    total = here = 0
    for table in read_tables(configs):
        printed = sum(row.points for row in table.rows)
        covered = sum(row.points for row in table.rows if row.configs)
        total, here = total + printed, here + covered
        lines.append(
            f'| {table.paper} | {table.name} | {table.what} | {printed} | '
            f'{covered} | {_left_out(table)} |'
        )
    return '\n'.join([*lines, f'| all | | | {total} | {here} | |'])


@cache
def _read(configs: Path) -> dict:
    return yaml.safe_load((configs / 'paper_tables.yml').read_text())


def _left_out(table: Table) -> str:
    whys: dict[str, list[str]] = {}
    for row in table.rows:
        if row.why:
            whys.setdefault(row.why, []).append(str(row.row))
    cells = [f'{", ".join(rows)}: {why}' for why, rows in whys.items()]
    options = {row.options for row in table.rows if row.options}
    cells += [
        f'nothing; from one config each with `--cfg-options {option}`'
        for option in options
    ]
    return '; '.join(cells)


def _setting(leaf: str) -> str:
    """Return the first word of the tuner in a config's name."""
    return leaf.split('_')[-3].split('-')[0]


def _model(configs: Path, leaf: str, collections: list[dict]) -> dict:
    cfg = load(configs, leaf)
    (collection,) = (
        entry['name']
        for entry in collections
        if entry.get('setting', _setting(leaf)) == _setting(leaf)
    )
    loop = cfg.train_cfg
    unit = 'Epochs' if 'max_epochs' in loop else 'Iterations'
    model: dict[str, Any] = {
        'Name': Path(leaf).name,
        'In Collection': collection,
        'Config': f'configs/{leaf}.py',
        'Metadata': {
            unit: loop.get('max_epochs') or loop.max_iters,
            'Training Resources': resources(cfg),
            **_parameters(cfg),
        },
    }
    results = _results(configs, leaf)
    return {**model, 'Results': results} if results else model


def resources(cfg: Config) -> str:
    """Return how many GPUs a config is for, with how many images each."""
    images = cfg.train_dataloader.batch_size
    gpus = cfg.auto_scale_lr.base_batch_size // images
    return f'{gpus} GPU{"s" * (gpus > 1)} x {images} images'


def _parameters(cfg: Config) -> dict[str, int]:
    model = build_on_meta(cfg)
    counts = {}
    if tuners_of(model.backbone):
        counts['Trainable Backbone Parameters'] = _size(
            model.backbone, trainable=True
        )
    if hasattr(model, 'decoder'):
        counts['Decoder Parameters'] = _size(model.decoder)
    # Where the environment names the data, the head has no size of its own.
    if 'num_classes' not in cfg:
        counts['Parameters'] = _size(model)
    return counts


def _size(module: nn.Module, trainable: bool = False) -> int:
    return sum(
        p.numel()
        for p in module.parameters()
        if p.requires_grad or not trainable
    )


def scores(configs: Path, leaf: str) -> dict[tuple[str, str], float]:
    """Return what the papers print for a config.

    Returns:
        The table and the metric, with the part of the data where there is
        one, e.g. ``('RLRR table 2', 'top-1 accuracy, cifar')`` -> the score.
    """
    found = {}
    for table in read_tables(configs):
        for row in table.rows:
            for metric, score in row.configs.get(leaf, {}).items():
                parts = score if isinstance(score, dict) else {'': score}
                for part, value in parts.items():
                    name = f'{metric}, {part}' if part else metric
                    found[f'{table.paper} {table.name}', name] = value
    return found


def _results(configs: Path, leaf: str) -> list[dict]:
    metrics: dict[str, dict[str, float]] = {}
    for (table, metric), value in scores(configs, leaf).items():
        task = _TASKS[metric.split(',')[0]]
        metrics.setdefault(task, {})[f'{table}, {metric}'] = value
    data = _DATA.get(leaf.split('_')[-1], '')
    return [
        {'Task': task, 'Dataset': data, 'Metrics': values}
        for task, values in metrics.items()
    ]


def _collection(
    entry: dict, folder: str, models: list[dict], papers: dict
) -> dict:
    source = papers.get(entry.get('paper'), entry)
    used = {
        model['Metadata']['Training Resources']
        for model in models
        if model['In Collection'] == entry['name']
    }
    return {
        'Name': entry['name'],
        'Metadata': {
            'Training Techniques': ['AdamW'],
            'Training Resources': ' or '.join(sorted(used)),
        },
        'Paper': {'Title': source['title'], 'URL': source['url']},
        'README': f'configs/{folder}/README.md',
    }
