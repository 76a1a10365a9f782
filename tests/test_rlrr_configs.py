"""Every config of the RLRR paper's tables, as one table."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
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

from mmlowrank.analysis import count_parameters
from mmlowrank.datasets.vtab_tasks import GROUPS, TASKS
from mmlowrank.registry import TUNERS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'configs' / 'rlrr'
LEAVES = sorted(path.stem for path in FOLDER.glob('*.py'))
each_leaf = pytest.mark.parametrize('stem', LEAVES)

# Section 6 of the specification: backbone, head excluded.
COUNTS = {
    'vit-b-p16': 288_768,
    'vit-b-p16-augreg': 288_768,
    'vit-l-p16': 765_952,
    'vit-h-p14': 1_274_880,
    'swin-b': 358_144,
}
WIDTHS = {
    'vit-b-p16': 768,
    'vit-l-p16': 1024,
    'vit-h-p14': 1280,
    'swin-b': 1024,
}
DENSE = {
    'cascade-mask-rcnn_swin-b_rlrr_3x_coco': 359_936,
    'upernet_swin-l_rlrr_160k_ade20k': 539_904,
}
ONE_SIDED = 205_824
ABLATIONS = {
    'rlrr-left': ONE_SIDED,
    'rlrr-right': ONE_SIDED,
    'rlrr-no-residual-left': ONE_SIDED,
    'rlrr-no-residual-right': ONE_SIDED,
    'rlrr-no-residual': 288_768,
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
# Short name -> folder, classes, lr, dropout, weight decay, restarts.
FGVC = {
    'cub': ('CUB_200_2011', 200, 3e-3, 0.1, 5e-2, True),
    'nabirds': ('NABirds', 555, 5e-4, 0.3, 5e-2, False),
    'flowers': ('OxfordFlowers', 102, 3e-3, 0.2, 5e-2, False),
    'cars': ('StanfordCars', 196, 3e-3, 0.2, 5e-2, False),
    'dogs': ('StanfordDogs', 120, 1e-4, 0, 5e-2, True),
}


@cache
def load(stem: str) -> Config:
    return Config.fromfile(FOLDER / f'{stem}.py')


def docstring(stem: str) -> str:
    return ast.get_docstring(ast.parse((FOLDER / f'{stem}.py').read_text()))


def parts(stem: str) -> tuple[str, str, str, str]:
    """Model, tuner, schedule and data of a classifier's config."""
    model, tuner, schedule, data = stem.split('_')
    return model, tuner, schedule, data


def classifiers() -> list[str]:
    return [stem for stem in LEAVES if stem not in DENSE]


each_classifier = pytest.mark.parametrize('stem', classifiers())


def test_the_tables_of_the_paper_are_complete():
    vtab = {
        f'{model}_rlrr_110e_vtab1k-{task.replace("_", "-")}'
        for model in COUNTS
        for task in TASKS
    }
    fgvc = {f'vit-b-p16_rlrr_60e_fgvc-{name}' for name in FGVC}
    augmented = {f'vit-b-p16-augreg_rlrr_110e_fgvc-{name}' for name in FGVC}
    ablations = {
        f'vit-b-p16_{tuner}_60e_fgvc-{name}'
        for tuner in ABLATIONS
        for name in FGVC
    }
    assert set(LEAVES) == vtab | fgvc | augmented | ablations | set(DENSE)


# One of each model with each tuner: the others differ in the head's width.
@pytest.mark.parametrize(
    ('stem', 'count'),
    [
        *DENSE.items(),
        *(
            (f'{model}_rlrr_110e_vtab1k-cifar', count)
            for model, count in COUNTS.items()
        ),
        ('vit-b-p16_rlrr_60e_fgvc-nabirds', 288_768),
        ('vit-b-p16-augreg_rlrr_110e_fgvc-nabirds', 288_768),
        *(
            (f'vit-b-p16_{tuner}_60e_fgvc-nabirds', count)
            for tuner, count in ABLATIONS.items()
        ),
    ],
)
def test_trains_what_the_paper_counts(stem, count):
    counts = count_parameters(load(stem))
    assert counts['backbone_trainable'] == count
    if stem in DENSE:
        return
    classes = load(stem).model.head.num_classes
    width = WIDTHS[parts(stem)[0].removesuffix('-augreg')]
    assert counts['model_trainable'] == count + classes * (width + 1)


def test_means_with_heads():
    """Table 2 prints 0.33 M and table 3 prints 0.47 M for ViT-B."""

    def mean(stems: list[str]) -> float:
        classes = [load(stem).model.head.num_classes for stem in stems]
        return 288_768 + 769 * sum(classes) / len(classes)

    vtab = [s for s in LEAVES if s.startswith('vit-b-p16_rlrr_110e_vtab1k')]
    fgvc = [s for s in LEAVES if s.startswith('vit-b-p16_rlrr_60e_fgvc')]
    assert round(mean(vtab)) == 326_813
    assert round(mean(fgvc)) == 469_175


@each_classifier
def test_settings_are_those_of_the_specification(stem):
    cfg = load(stem)
    model, tuner, schedule, data = parts(stem)
    kind, _, name = data.partition('-')
    augmented = kind == 'fgvc' and model.endswith('-augreg')
    if kind == 'vtab1k':
        folder = name.replace('-', '_')
        classes, lr, dropout, decay, flip = VTAB[folder]
        assert classes == TASKS[folder].classes
        restarts, where = False, dict(task=folder)
    else:
        folder, classes, lr, dropout, decay, restarts = FGVC[name]
        flip, where = True, dict(name=folder)
        restarts = restarts or augmented
    for loader in ('train', 'val', 'test'):
        dataset = cfg[f'{loader}_dataloader'].dataset
        assert {key: dataset[key] for key in where} == where
    flips = [
        t
        for t in cfg.train_dataloader.dataset.pipeline
        if t.type == 'RandomFlip'
    ]
    assert len(flips) == flip
    assert cfg.train_dataloader.batch_size == 32
    drop_last = augmented and name == 'nabirds'
    assert cfg.train_dataloader.get('drop_last', False) == drop_last
    assert cfg.model.head.num_classes == classes
    assert cfg.optim_wrapper.optimizer.lr == lr
    assert cfg.optim_wrapper.optimizer.weight_decay == decay
    assert cfg.model.backbone.tuner.type == 'RLRR'
    if model == 'swin-b':
        assert cfg.model.backbone.backbone.drop_path_rate == 0.1
        assert cfg.model.backbone.tuner.stochastic_trunk
    else:
        assert cfg.model.backbone.tuner.branch_dropout == dropout
    epochs = int(schedule.removesuffix('e'))
    assert cfg.train_cfg.max_epochs == epochs
    if restarts:
        assert cfg.param_scheduler.type == 'CosineRestartLR'
        periods = [10, 20, 40, 80] if augmented else [5] * 12
        assert cfg.param_scheduler.periods == periods
    else:
        assert cfg.param_scheduler.type == 'mmlowrank.TimmCosineLR'
        assert cfg.param_scheduler.epochs == epochs - 10
    assert tuner == 'rlrr' or tuner in ABLATIONS
    residual = cfg.model.backbone.tuner.get('residual', True)
    assert residual != ('no-residual' in tuner)
    sides = cfg.model.backbone.tuner.get('sides', ('left', 'right'))
    one = re.search(r'(left|right)$', tuner)
    assert sides == ((one[0],) if one else ('left', 'right'))
    mixes = 'train_cfg' in cfg.model
    averages = any(hook.type == 'EMAHook' for hook in cfg.custom_hooks)
    smooth = cfg.model.head.get('loss', {}).get('type') == 'LabelSmoothLoss'
    assert mixes == averages == smooth == augmented


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
    assert PARAM_SCHEDULERS.get(cfg.param_scheduler.type)
    assert OPTIM_WRAPPER_CONSTRUCTORS.get(cfg.optim_wrapper.constructor)
    for hook in cfg.custom_hooks:
        assert HOOKS.get(hook.type)


# -- README, metafile, docstrings --------------------------------------------


@cache
def readme() -> str:
    return (FOLDER / 'README.md').read_text()


@cache
def models() -> dict[str, dict]:
    meta = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
    (collection,) = meta['Collections']
    assert (ROOT / collection['README']).is_file()
    assert all(
        model['In Collection'] == collection['Name'] and 'Weights' not in model
        for model in meta['Models']
    )
    return {model['Name']: model for model in meta['Models']}


def test_metafile_lists_the_leaves():
    assert sorted(models()) == LEAVES
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert 'configs/rlrr/metafile.yml' in index['Import']


@each_leaf
def test_metafile_docstring_and_readme_agree(stem):
    model, text = models()[stem], docstring(stem)
    leaf = f'configs/rlrr/{stem}.py'
    assert model['Config'] == leaf
    command = 'dist_train.sh' if stem in DENSE else 'tools/train.py --amp'
    assert command in text
    assert leaf in text
    count = model['Metadata']['Trainable Backbone Parameters']
    if stem in DENSE:
        assert count == DENSE[stem]
    else:
        name, tuner = parts(stem)[:2]
        assert count == ABLATIONS.get(tuner, COUNTS[name])
        assert model['Metadata']['Epochs'] == load(stem).train_cfg.max_epochs
    results = model.get('Results', [])
    if not results:
        assert 'no number for this row' in text
        assert f']({stem}.py)' in readme()
        return
    ((metric, value),) = results[0]['Metrics'].items()
    assert metric == 'Paper top-1 accuracy'
    assert f'top-1 accuracy {value}.' in text
    assert readme().count(f'[{value}]({stem}.py)') == 1


@pytest.mark.parametrize(
    ('model', 'means'),
    [
        ('vit-b-p16', (82.7, 85.8, 61.8, 74.5)),
        ('vit-b-p16-augreg', (83.7, 87.3, 61.5, 75.1)),
    ],
)
def test_printed_accuracies_give_the_printed_means(model, means):
    values = {}
    for task in TASKS:
        stem = f'{model}_rlrr_110e_vtab1k-{task.replace("_", "-")}'
        metrics = models()[stem]['Results'][0]['Metrics']
        values[task] = metrics['Paper top-1 accuracy']
    chosen = [
        [v for task, v in values.items() if TASKS[task].group == group]
        for group in GROUPS
    ]
    for group, mean in zip([*chosen, values.values()], means, strict=True):
        # Task and mean are rounded to 0.1 each.
        assert sum(group) / len(group) == pytest.approx(mean, abs=0.1)
