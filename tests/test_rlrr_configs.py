"""Every config of the RLRR paper's tables, as one table."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import (
    DATASETS,
    HOOKS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    PARAM_SCHEDULERS,
    DefaultScope,
)
from test_configs import numbers

from mmlowrank.analysis import count_parameters, paper_tables, rlrr_tables
from mmlowrank.datasets.fgvc import CLASSES
from mmlowrank.datasets.vtab_tasks import GROUPS, TASKS
from mmlowrank.registry import TUNERS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'configs' / 'rlrr'
LEAVES = sorted(path.stem for path in FOLDER.glob('*.py'))
each_leaf = pytest.mark.parametrize('stem', LEAVES)

DENSE = {
    'cascade-mask-rcnn_swin-b_rlrr_3x_coco': 359_936,
    'upernet_swin-l_rlrr_160k_ade20k': 539_904,
}
CLASSIFIERS = [stem for stem in LEAVES if stem not in DENSE]
each_classifier = pytest.mark.parametrize('stem', CLASSIFIERS)
# Width, blocks, and what the stock backbone has.
VITS = {
    'vit-b-p16': (768, 12, 85_798_656),
    'vit-b-p16-augreg': (768, 12, 85_798_656),
    'vit-l-p16': (1024, 24, 303_301_632),
    'vit-h-p14': (1280, 32, 630_764_800),
}
# Section 6 and 11 of the specification; ARC with the bias of nn/arc.py.
SWIN_B = {
    'full': 86_743_224,
    'fixed': 0,
    'mlp-4': 0,
    'partial-1': 12_601_632,
    'bitfit': 137_216 + 63_544,
    'arc-50': 192_000 + 48 * 50 + 2 * 12_032,
    'rlrr': 358_144,
}
SIDES = {
    'rlrr-left': dict(sides=('left',)),
    'rlrr-right': dict(sides=('right',)),
    'rlrr-no-residual': dict(residual=False),
    'rlrr-no-residual-left': dict(sides=('left',), residual=False),
    'rlrr-no-residual-right': dict(sides=('right',), residual=False),
}
# The methods of tables 2 to 5.
ALWAYS = ['full', 'fixed', 'adapter-64th', 'bitfit', 'lora-r8', 'arc-50']
ALWAYS += ['vpt-shallow-50', 'vpt-deep-50', 'rlrr']
METHODS = {
    ('vit-b-p16', '110e_vtab1k'): [*ALWAYS, 'adaptformer-8', 'fact-tk-r32'],
    ('vit-b-p16-augreg', '110e_vtab1k'): ['ssf', 'arc-50', 'rlrr'],
    ('vit-b-p16', '60e_fgvc'): [*ALWAYS, *SIDES],
    ('vit-b-p16-augreg', '110e_fgvc'): ['ssf', 'arc-50', 'rlrr'],
    ('vit-l-p16', '110e_vtab1k'): [*ALWAYS, 'ssf'],
    ('vit-h-p14', '110e_vtab1k'): [*ALWAYS, 'ssf'],
    ('swin-b', '110e_vtab1k'): list(SWIN_B),
}
# Section 5: classes, lr, dropout, weight decay, flip.
VTAB = {
    'cifar': (100, 3e-3, 0.1, 5e-5, False),
    'caltech101': (102, 1e-3, 0.1, 5e-5, False),
    'dtd': (47, 2e-3, 0.1, 5e-5, True),
    'oxford_flowers102': (102, 3e-3, 0.3, 5e-2, False),
    'oxford_iiit_pet': (37, 1e-3, 0.1, 5e-5, True),
    'svhn': (10, 5e-3, 0.3, 5e-5, False),
    'sun397': (397, 1e-3, 0.1, 5e-5, False),
    'patch_camelyon': (2, 3e-3, 0.3, 5e-2, True),
    'eurosat': (10, 1e-3, 0.1, 5e-5, True),
    'resisc45': (45, 3e-3, 0, 5e-5, False),
    'diabetic_retinopathy': (5, 5e-3, 0.1, 5e-5, True),
    'clevr_count': (8, 5e-3, 0.5, 5e-5, True),
    'clevr_dist': (6, 1e-2, 0.2, 5e-5, True),
    'dmlab': (6, 5e-3, 0.3, 5e-5, True),
    'kitti': (4, 3e-3, 0.3, 5e-2, True),
    'dsprites_loc': (16, 1e-2, 0.1, 5e-5, False),
    'dsprites_ori': (16, 5e-3, 0.1, 5e-5, False),
    'smallnorb_azi': (18, 5e-3, 0.3, 5e-2, False),
    'smallnorb_ele': (9, 1e-3, 0.3, 5e-5, True),
}
# Classes, lr, dropout, weight decay, restarts.
FGVC = {
    'CUB_200_2011': (200, 3e-3, 0.1, 5e-2, True),
    'NABirds': (555, 5e-4, 0.3, 5e-2, False),
    'OxfordFlowers': (102, 3e-3, 0.2, 5e-2, False),
    'StanfordCars': (196, 3e-3, 0.2, 5e-2, False),
    'StanfordDogs': (120, 1e-4, 0, 5e-2, True),
}


@cache
def load(stem: str, data: str = '') -> Config:
    """A config, of a task of VTAB-1k or a data set of FGVC."""
    names = dict(VTAB_TASK=data, FGVC_NAME=data) if data else {}
    return paper_tables.load(ROOT / 'configs', f'rlrr/{stem}', **names)


def docstring(stem: str) -> str:
    return ast.get_docstring(ast.parse((FOLDER / f'{stem}.py').read_text()))


def parts(stem: str) -> tuple[str, str, str]:
    """Model, tuner, schedule and data of a classifier's config."""
    model, tuner, rest = stem.split('_', 2)
    return model, tuner, rest


def trainable(model: str, tuner: str) -> int:
    """Parameters of the backbone that train."""
    if model == 'swin-b':
        return SWIN_B[tuner]
    width, blocks, stock = VITS[model]
    mid = width // 64
    return {
        'full': stock,
        'fixed': 0,
        'adapter-64th': blocks * (2 * width * mid + mid + width),
        'bitfit': 11 * blocks * width + 2 * width,
        'vpt-shallow-50': 50 * width,
        'vpt-deep-50': 50 * blocks * width,
        'lora-r8': 32 * blocks * width,
        'adaptformer-8': blocks * (16 * width + 8 + width),
        'fact-tk-r32': 2 * width * 32 + 12 * blocks * 32 + 32**3,
        'arc-50': 2 * width * 50 + 2 * blocks * (50 + width),
        'ssf': 22 * blocks * width + 4 * width,
        'rlrr': 31 * blocks * width + 4 * width,
        'rlrr-no-residual': 31 * blocks * width + 4 * width,
    }.get(tuner, 22 * blocks * width + 4 * width)


def test_the_tables_of_the_paper_are_complete():
    expected = {
        f'{model}_{tuner}_{rest}'
        for (model, rest), tuners in METHODS.items()
        for tuner in tuners
    }
    assert set(LEAVES) == expected | set(DENSE)


@each_leaf
def test_trains_what_the_closed_form_says(stem):
    counts = count_parameters(load(stem))
    if stem in DENSE:
        assert counts['backbone_trainable'] == DENSE[stem]
        return
    model, tuner, _ = parts(stem)
    count = trainable(model, tuner)
    assert counts['backbone_trainable'] == count
    head = load(stem).model.head
    layers = (head.in_channels + 1) * head.num_classes
    if tuner == 'mlp-4':
        layers += 3 * 1024 * 1025
    assert counts['model_trainable'] == count + layers


# VPT, MLP-4, FacT and some of Adapter, ARC and LoRA do not come out. LoRA and
# AdaptFormer of table 2 are counted without a head.
@pytest.mark.parametrize(
    ('table', 'methods', 'without_head'),
    [
        (
            'table 2',
            'Full Linear Bias Adapter SSF RLRR RLRR* ARC ARC*',
            'LoRA AdaptFormer',
        ),
        ('table 3', 'Full Linear Bias Adapter SSF RLRR RLRR*', ''),
        ('table 4a', 'Full Linear Bias SSF RLRR', ''),
        ('table 4b', 'Linear Bias SSF', ''),
        ('table 5', 'Full Linear Bias Partial ARC RLRR', ''),
        ('table 6', 'left, right, both, left right both', ''),
    ],
)
def test_printed_counts_come_out(table, methods, without_head):
    text = rlrr_tables.methods(ROOT / 'configs', table)
    found = re.findall(
        r'^\| \[(\S+).*?\]\(.*?\) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) M',
        text,
        re.M,
    )
    rows = {name: counts for name, *counts in found}
    for method in [*methods.split(), *without_head.split()]:
        backbone, with_head, printed = rows[method]
        count = backbone if method in without_head.split() else with_head
        millions = int(count.replace(',', '')) / 1e6
        # The authors count the whole ViT with or without parts of its head.
        tolerance = 0.06 if method == 'Full' else 0.0051
        assert millions == pytest.approx(float(printed), abs=tolerance)


def check_data(cfg: Config, key: str, name: str, flip: bool) -> None:
    for loader in ('train', 'val', 'test'):
        assert cfg[f'{loader}_dataloader'].dataset[key] == name
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert sum(t.type == 'RandomFlip' for t in pipeline) == flip
    assert cfg.train_dataloader.batch_size == 32


def check_recipe(
    cfg: Config, classes: int, lr: float, dropout: float, decay: float
) -> None:
    assert cfg.model.head.num_classes == classes
    assert cfg.optim_wrapper.optimizer.lr == lr
    assert cfg.optim_wrapper.optimizer.weight_decay == decay
    assert cfg.model.backbone.tuner.branch_dropout == dropout


@pytest.mark.parametrize('task', TASKS)
def test_settings_of_the_tasks(task):
    stem = 'vit-b-p16_rlrr_110e_vtab1k'
    cfg = load(stem, task)
    *recipe, flip = VTAB[task]
    assert recipe[0] == TASKS[task].classes
    check_data(cfg, 'task', task, flip)
    check_recipe(cfg, *recipe)
    assert cfg.work_dir == f'work_dirs/{stem}/{task}'


@pytest.mark.parametrize('augmented', [False, True])
@pytest.mark.parametrize('name', FGVC)
def test_settings_of_the_data_sets(name, augmented):
    stem = 'vit-b-p16_rlrr_60e_fgvc'
    if augmented:
        stem = 'vit-b-p16-augreg_rlrr_110e_fgvc'
    cfg = load(stem, name)
    *recipe, restarts = FGVC[name]
    assert recipe[0] == CLASSES[name]
    check_data(cfg, 'name', name, True)
    check_recipe(cfg, *recipe)
    assert cfg.work_dir == f'work_dirs/{stem}/{name}'
    drop_last = cfg.train_dataloader.get('drop_last', False)
    assert drop_last == (augmented and name == 'NABirds')
    if restarts or augmented:
        assert cfg.param_scheduler.type == 'CosineRestartLR'
        periods = [10, 20, 40, 80] if augmented else [5] * 12
        assert cfg.param_scheduler.periods == periods
    else:
        assert cfg.param_scheduler.type == 'mmlowrank.TimmCosineLR'
        assert cfg.param_scheduler.epochs == 50
    mixes = 'train_cfg' in cfg.model
    averages = any(hook.type == 'EMAHook' for hook in cfg.custom_hooks)
    smooth = cfg.model.head.get('loss', {}).get('type') == 'LabelSmoothLoss'
    assert mixes == averages == smooth == augmented


@each_classifier
def test_all_methods_have_the_same_settings(stem):
    """The tuner differs; full and partial tuning have a rate of their own."""
    cfg = load(stem)
    model, tuner, rest = parts(stem)
    same = load(f'{model}_rlrr_{rest}')
    for key in ('train_dataloader', 'val_dataloader', 'param_scheduler'):
        assert cfg[key] == same[key]
    assert cfg.model.backbone.backbone == same.model.backbone.backbone
    rate = 1e-4 if tuner in ('full', 'partial-1') else 3e-3
    assert cfg.optim_wrapper.optimizer.lr == rate
    chosen = cfg.model.backbone.tuner
    if tuner.startswith('rlrr'):
        assert chosen.type == 'RLRR'
        changed = SIDES.get(tuner, {})
        assert chosen.get('sides') == changed.get('sides')
        assert chosen.get('residual', True) == changed.get('residual', True)
        assert ('branch_dropout' in chosen) == (model != 'swin-b')
    if model == 'swin-b':
        assert cfg.model.backbone.backbone.drop_path_rate == 0.1
        assert cfg.model.backbone.stochastic_trunk
    epochs = int(rest.split('e_')[0])
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.env_cfg.cudnn_benchmark


@pytest.mark.parametrize(
    ('stem', 'variable', 'known'),
    [
        ('vit-b-p16_lora-r8_110e_vtab1k', 'VTAB_TASK', TASKS),
        ('vit-b-p16_rlrr_60e_fgvc', 'FGVC_NAME', CLASSES),
        ('vit-b-p16-augreg_rlrr_110e_fgvc', 'FGVC_NAME', CLASSES),
    ],
)
@pytest.mark.parametrize('value', [None, 'mnist', 'Cifar'])
def test_no_or_a_mistyped_task_is_a_sentence(
    stem, variable, known, value, monkeypatch
):
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable) as error:
        Config.fromfile(FOLDER / f'{stem}.py')
    assert all(name in str(error.value) for name in known)
    # mmengine has a sentence of its own for an empty one.
    monkeypatch.setenv(variable, '')
    with pytest.raises(KeyError, match=variable):
        Config.fromfile(FOLDER / f'{stem}.py')


@each_classifier
@pytest.mark.parametrize('epochs', [1, 2])
def test_a_short_run_has_a_schedule(stem, epochs):
    """What ``--cfg-options train_cfg.max_epochs=1`` leaves for mmengine."""
    weight = torch.nn.Parameter(torch.zeros(1))
    for data in FGVC if 'fgvc' in stem else ['cifar']:
        scheduler = load(stem, data).param_scheduler
        PARAM_SCHEDULERS.build(
            {'end': epochs, **scheduler},
            default_args=dict(optimizer=torch.optim.AdamW([weight], 1.0)),
        )


def scoped(name: str) -> str:
    return name if '.' in name else f'mmpretrain.{name}'


@each_classifier
def test_names_resolve(stem):
    cfg = load(stem)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for loader in ('train', 'val', 'test'):
            dataset = cfg[f'{loader}_dataloader'].dataset
            assert DATASETS.get(dataset.type)
            Compose(dataset.pipeline)
    backbone = cfg.model.backbone
    for node in (cfg.model, backbone, backbone.backbone, cfg.model.head):
        assert MODELS.get(scoped(node.type))
    assert TUNERS.get(backbone.tuner.type)
    assert OPTIM_WRAPPER_CONSTRUCTORS.get(cfg.optim_wrapper.constructor)
    for hook in cfg.custom_hooks:
        assert HOOKS.get(hook.type)


# -- README, docstrings, what the paper prints --------------------------------


@each_leaf
def test_docstring_and_readme_have_what_is_printed(stem):
    text = docstring(stem)
    command = 'tools/dist_train.sh' if stem in DENSE else 'tools/train.py'
    assert command in text
    assert f'configs/rlrr/{stem}.py' in text
    readme = (FOLDER / 'README.md').read_text()
    assert f']({stem}.py)' in readme
    scores = paper_tables.scores(ROOT / 'configs', f'rlrr/{stem}')
    if not scores:
        assert 'no number for this row' in text
        return
    for (table, metric), value in scores.items():
        if metric == 'top-1 accuracy, mean' and table != 'RLRR table 6':
            number = table.split()[-1].rstrip('ab')
            assert f'Paper (table {number}): top-1 accuracy {value}' in text
    assert {v for k, v in scores.items() if k[1].endswith('mean')} <= numbers(
        text
    )


@pytest.mark.parametrize('table', paper_tables.read_tables(ROOT / 'configs'))
def test_printed_accuracies_give_the_printed_means(table):
    """A wrong digit in the file would show."""
    for row in table.rows:
        for scores in row.configs.values():
            found = scores.get('top-1 accuracy', {})
            for group in GROUPS:
                chosen = [
                    value
                    for task, value in found.items()
                    if task in TASKS and TASKS[task].group == group
                ]
                if chosen:
                    # Task and mean are rounded to 0.1 each.
                    mean = sum(chosen) / len(chosen)
                    assert mean == pytest.approx(found[group], abs=0.1)
            parts = [v for k, v in found.items() if k in TASKS or k in CLASSES]
            if parts:
                mean = sum(parts) / len(parts)
                assert mean == pytest.approx(found['mean'], abs=0.1)
