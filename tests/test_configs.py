"""Every config of the dense papers' tables, as one table."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    DefaultScope,
)

from mmlowrank.analysis import count_parameters, paper_tables

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('baselines', 'colin', 'e3va', 'lorand', 'mona')
LEAVES = [
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in sorted((ROOT / 'configs' / folder).glob('*.py'))
]
each_leaf = pytest.mark.parametrize('leaf', LEAVES)

# Width of the first stage, blocks per stage, heads of the first stage.
SWINS = {
    't': (96, (2, 2, 6, 2), 3),
    's': (96, (2, 2, 18, 2), 3),
    'b': (128, (2, 2, 18, 2), 4),
    'l': (192, (2, 2, 18, 2), 6),
}


@cache
def load(leaf: str) -> Config:
    return Config.fromfile(ROOT / leaf)


def stem(leaf: str) -> str:
    return Path(leaf).stem


def docstring(leaf: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / leaf).read_text()))


def readme_row(leaf: str) -> str:
    lines = (ROOT / leaf).with_name('README.md').read_text().splitlines()
    rows = [line for line in lines if f']({stem(leaf)}.py)' in line]
    assert len(rows) == 1, f'README.md has {len(rows)} rows for {leaf}'
    return rows[0]


def outputs(head: str) -> tuple[int, ...]:
    """Stages that the head reads; each has an output norm."""
    return (1, 2, 3) if head == 'retinanet' else (0, 1, 2, 3)


def trainable(size: str, tuner: str, out: tuple[int, ...]) -> int:
    """Parameters of a Swin with 7 x 7 windows that train with a tuner."""
    width, depths, heads = SWINS[size]
    widths = [width * 2**stage for stage in range(4)]
    blocks = sum(depths)
    s1 = sum(n * d for n, d in zip(depths, widths, strict=True))
    s2 = sum(n * d * d for n, d in zip(depths, widths, strict=True))
    tables = 13**2 * heads * sum(n * 2**i for i, n in enumerate(depths))
    merges = sum(8 * d * d + 8 * d for d in widths[:3])
    norms = 2 * sum(widths[stage] for stage in out)
    last = widths[-1]
    known = {
        'full': 12 * s2 + 13 * s1 + tables + merges + 51 * width + norms,
        'fixed': 0,
        'bitfit': (
            11 * s1 + tables + 4 * sum(widths[:3]) + 2 * width + norms // 2
        ),
        'norm-tuning': 4 * s1 + 8 * sum(widths[:3]) + 2 * width + norms,
        'partial-1': 12 * last**2 + 13 * last + 13**2 * heads * 8,
        'adapter-b': 2 * s2 + 3 * s1,
        'adapter-t': s2 + 5 * s1 // 2,
        'adapter-64': 258 * s1 + 128 * blocks,
        'adaptformer-64': 258 * s1 + 128 * blocks,
        'lora-r64': 256 * s1,
        'e3va-standard': 130 * s1 + 64 * blocks + norms,
        'mona': 2 * (133 * s1 + 9728 * blocks),
        'colin': 2 * (57 * s1 + 6912 * blocks),
    }
    if tuner in known:
        return known[tuner]
    found = re.fullmatch(r'e3va-r(\d+)(.*)', tuner)
    if found:
        rank, change = int(found[1]), found[2]
        return (12 * rank + 3) * s1 + {
            '': norms,
            '-stacked': norms,
            '-trainable-reduction': norms + merges,
            '-fixed-norms': 0,
        }[change]
    found = re.fullmatch(r'lorand-b(\d+)r(\d+)(?:-mid(\d+))?', tuner)
    branches, rank, mid = (int(part or 0) for part in found.groups())
    kernels = 2 * branches * rank**2 * blocks
    if mid:
        per_block = (4 * branches * rank + 2) * mid
        return (4 * branches * rank + 2) * s1 + per_block * blocks + kernels
    return (6 * branches * rank + 3) * s1 + kernels


def trainable_of(leaf: str) -> int:
    head, swin, tuner, _, _ = stem(leaf).split('_')
    return trainable(swin.removeprefix('swin-'), tuner, outputs(head))


def stock_of(leaf: str) -> int:
    head, swin, _, _, _ = stem(leaf).split('_')
    return trainable(swin.removeprefix('swin-'), 'full', outputs(head))


def added_of(leaf: str) -> int:
    """Parameters that the stock backbone does not have."""
    head, swin, tuner, _, _ = stem(leaf).split('_')
    if tuner in ('full', 'fixed', 'bitfit', 'norm-tuning', 'partial-1'):
        return 0
    if tuner.startswith('e3va') and not tuner.endswith('-fixed-norms'):
        width = SWINS[swin.removeprefix('swin-')][0]
        norms = 2 * sum(width * 2**stage for stage in outputs(head))
        return trainable_of(leaf) - norms
    return trainable_of(leaf)


def leaves_of_lorand_paper() -> set[str]:
    benchmarks = {
        ('cascade-mask-rcnn', '3x_coco'): 'tsb',
        ('upernet', '160k_ade20k'): 'sbl',
        ('faster-rcnn', '1x_voc0712'): 'sbl',
    }
    tuners = {
        'baselines': ('full', 'fixed', 'adapter-b', 'adapter-t'),
        'lorand': ('lorand-b2r8', 'lorand-b4r8', 'lorand-b4r16'),
    }
    return {
        f'configs/{folder}/{head}_swin-{size}_{tuner}_{data}.py'
        for (head, data), sizes in benchmarks.items()
        for size in sizes
        for folder in tuners
        for tuner in tuners[folder]
    }


def leaves_of_e3va_paper() -> set[str]:
    heads = {
        'cascade-mask-rcnn': '3x_coco',
        'upernet': '160k_ade20k',
        'retinanet': '1x_voc0712',
    }
    mains = [
        *('full', 'fixed', 'bitfit', 'norm-tuning', 'partial-1'),
        *('adapter-64', 'lora-r64', 'adaptformer-64'),
        *('e3va-r8', 'e3va-r16', 'e3va-r32'),
    ]
    rows = {
        *(('cascade-mask-rcnn', 'b', t) for t in [*mains, 'lorand-b2r8']),
        *(('upernet', 'l', t) for t in [*mains, 'lorand-b2r8-mid64']),
        *(('retinanet', 'l', t) for t in [*mains, 'lorand-b2r8-mid64']),
        ('cascade-mask-rcnn', 'l', 'e3va-r8'),
        # Table 4.
        *(
            ('cascade-mask-rcnn', 'l', tuner)
            for tuner in ('full', 'bitfit', 'adapter-64', 'lora-r64')
        ),
        ('retinanet', 'l', 'e3va-standard'),
        ('retinanet', 'l', 'e3va-r8-stacked'),
        *((head, 'l', 'e3va-r8-trainable-reduction') for head in heads),
        *((head, 'l', 'e3va-r8-fixed-norms') for head in heads),
    }
    folders = {'lorand': 'lorand', 'e3va': 'e3va'}
    return {
        f'configs/{folders.get(tuner.split("-")[0], "baselines")}/'
        f'{head}_swin-{size}_{tuner}_{heads[head]}.py'
        for head, size, tuner in rows
    }


def leaves_of_mona_and_colin() -> set[str]:
    return {
        f'configs/{tuner}/{head.format(tuner)}.py'
        for tuner in ('mona', 'colin')
        for head in (
            'cascade-mask-rcnn_swin-b_{}_3x_coco',
            'retinanet_swin-l_{}_1x_voc0712',
            'upernet_swin-l_{}_160k_ade20k',
        )
    }


def test_the_tables_of_the_papers_are_complete():
    assert set(LEAVES) == (
        leaves_of_lorand_paper()
        | leaves_of_e3va_paper()
        | leaves_of_mona_and_colin()
    )


@each_leaf
def test_trains_what_the_closed_form_says(leaf):
    counts = count_parameters(load(leaf))
    stock, added = stock_of(leaf), added_of(leaf)
    assert counts['backbone_stock'] == stock
    assert counts['backbone_trainable'] == trainable_of(leaf)
    assert counts['backbone_added'] == added
    outside = counts['model_total'] - stock - added
    assert counts['model_trainable'] - trainable_of(leaf) == outside > 0


@pytest.mark.parametrize(
    ('size', 'tuner', 'count'),
    [
        ('b', 'bitfit', 201_656),
        ('l', 'bitfit', 302_484),
        ('b', 'norm-tuning', 59_392),
        ('l', 'norm-tuning', 89_088),
        ('b', 'partial-1', 12_601_632),
        ('l', 'partial-1', 28_339_632),
        ('b', 'adapter-64', 3_107_328),
        ('b', 'lora-r64', 3_080_192),
        ('l', 'lorand-b2r8-mid64', 1_298_688),
        ('b', 'e3va-r8', 1_195_008),
        ('b', 'e3va-r16', 2_350_080),
        ('b', 'e3va-r32', 4_660_224),
        ('l', 'e3va-r8', 1_792_512),
        ('l', 'e3va-r16', 3_525_120),
        ('l', 'e3va-r32', 6_990_336),
        ('l', 'e3va-standard', 2_353_536),
        ('b', 'mona', 3_667_456),
        ('b', 'colin', 1_703_424),
        ('l', 'e3va-r8-trainable-reduction', 1_792_512 + 6_203_904),
    ],
)
def test_closed_forms_give_the_known_counts(size, tuner, count):
    assert trainable(size, tuner, (0, 1, 2, 3)) == count


def gpus(leaf: str) -> int:
    """How many GPUs the settings are for: E3VA's VOC runs had one."""
    return 1 if 'retinanet' in leaf else 8


@each_leaf
def test_batch_is_two_images_on_each_gpu(leaf):
    cfg = load(leaf)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 2 * gpus(leaf)
    assert (
        cfg.optim_wrapper.optimizer.lr
        == {
            'coco': 1e-4,
            'voc0712': 1e-4,
            # Mona's authors ran theirs with five times the rate.
            'ade20k': 3e-4 if 'mona' in leaf else 6e-5,
        }[stem(leaf).split('_')[-1]]
    )


@each_leaf
def test_stochastic_depth(leaf):
    head, swin, *_ = stem(leaf).split('_')
    small = head == 'cascade-mask-rcnn' and swin in ('swin-t', 'swin-s')
    mona = 'mona' in leaf and head == 'upernet'
    rate = 0.2 if small or mona or 'voc' in leaf else 0.3
    assert load(leaf).model.backbone.drop_path_rate == rate


@each_leaf
def test_schedule_ends_with_the_loop(leaf):
    cfg = load(leaf)
    loop, last = cfg.train_cfg, cfg.param_scheduler[-1]
    unit = 'max_epochs' if last.by_epoch else 'max_iters'
    assert last.end == loop[unit]
    assert cfg.log_processor.by_epoch == last.by_epoch
    assert cfg.default_hooks.checkpoint.get('by_epoch', True) == last.by_epoch


def found_under(key: str, node: object) -> list:
    """All values of a key, at any depth."""
    if isinstance(node, (list, tuple)):
        return [hit for child in node for hit in found_under(key, child)]
    if not isinstance(node, dict):
        return []
    here = [node[key]] if key in node else []
    return here + found_under(key, list(node.values()))


@each_leaf
def test_names_resolve_in_the_scope_of_the_config(leaf):
    cfg = load(leaf)
    scope = cfg.default_scope
    loaders = [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]
    pipelines = found_under('pipeline', loaders)
    assert len(pipelines) >= 3
    with DefaultScope.overwrite_default_scope(scope):
        for pipeline in [*pipelines, cfg.get('tta_pipeline', [])]:
            Compose(pipeline)
    for dataset in found_under('dataset', loaders):
        assert DATASETS.get(f'{scope}.{dataset.type}')
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert METRICS.get(f'{scope}.{evaluator.type}')
    for hook in cfg.custom_hooks:
        assert HOOKS.get(hook.type)
    assert OPTIM_WRAPPER_CONSTRUCTORS.get(cfg.optim_wrapper.constructor)


@each_leaf
def test_docstring_gives_the_command(leaf):
    command = f'tools/train.py \\\n    {leaf}'
    if gpus(leaf) == 8:
        command = f'tools/dist_train.sh \\\n    {leaf} 8'
    assert command in re.sub(r'\n +', '\n    ', docstring(leaf))


def numbers(text: str) -> set[float]:
    """All numbers of a text: 51.90 is 51.9."""
    return {float(word) for word in re.findall(r'\d+(?:\.\d+)?', text)}


@each_leaf
def test_docstring_and_readme_have_what_is_printed(leaf):
    assert f'{trainable_of(leaf):,}' in readme_row(leaf)
    name = leaf.removeprefix('configs/').removesuffix('.py')
    printed = set(paper_tables.scores(ROOT / 'configs', name).values())
    assert printed <= numbers(readme_row(leaf))
    if printed:
        assert printed <= numbers(docstring(leaf))
    else:
        assert 'no number for this row' in docstring(leaf).replace('\n', ' ')
