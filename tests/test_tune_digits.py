"""tools/tune_digits.py: its configs, its data, its table, a run of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmlowrank.analysis import count_parameters, tuning_table
from mmlowrank.analysis.tuning_table import Row
from mmlowrank.engine import jobs

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'quickstart'
TOOL = ROOT / 'tools' / 'tune_digits.py'

# Swin: widths 32, 64, 128, 256, two blocks each. ViT: six blocks of 64.
S1 = 2 * (32 + 64 + 128 + 256)
STOCK = {
    # The Swin of the detectors, without three of its four output norms.
    'swin': 2_280_286 - 2 * (32 + 64 + 128),
    # Patches of 8 x 8, 25 of them and a class token, blocks, last norm.
    'vit': 64 * (192 + 1) + (25 + 1 + 1) * 64 + 6 * (12 * 64 + 13) * 64 + 128,
}
COUNTS = {
    ('swin', 'fixed'): 0,
    ('swin', 'ssf'): 22 * S1 + 4 * 32 + 12 * (32 + 64 + 128) + 2 * 256,
    ('swin', 'rlrr'): 29 * S1 + 8 * (32 + 64 + 128) + 2 * 256,
    ('swin', 'lora-r8'): 4 * 8 * S1,
    ('swin', 'full'): STOCK['swin'],
    ('vit', 'fixed'): 0,
    ('vit', 'rlrr'): 31 * 6 * 64 + 4 * 64,
    ('vit', 'ssf'): 22 * 6 * 64 + 4 * 64,
    ('vit', 'lora-r8'): 4 * 8 * 6 * 64,
    ('vit', 'full'): STOCK['vit'],
}


@pytest.mark.parametrize(('backbone', 'tuner'), COUNTS)
def test_trains_what_the_closed_form_says(backbone, tuner):
    name = f'{backbone}-mini_{tuner}_30e_digits-turned.py'
    counts = count_parameters(Config.fromfile(CONFIGS / name))
    assert counts['backbone_stock'] == STOCK[backbone]
    assert counts['backbone_trainable'] == COUNTS[backbone, tuner]
    # The head, of a width that differs: 256 and 64.
    width = dict(swin=256, vit=64)[backbone]
    head = counts['model_trainable'] - counts['backbone_trainable']
    assert head == 10 * (width + 1)


def test_the_pretrained_backbones_are_those_that_are_tuned():
    for backbone in STOCK:
        before, after = (
            Config.fromfile(CONFIGS / name).model
            for name in (
                f'pretrain_{backbone}-mini_digits.py',
                f'{backbone}-mini_full_30e_digits-turned.py',
            )
        )
        tuned = after.backbone.backbone.to_dict()
        assert tuned.pop('init_cfg')['prefix'] == 'backbone'
        assert tuned == before.backbone.to_dict()


def test_the_digits_lie_on_their_side(digit_scenes, monkeypatch):
    monkeypatch.setenv('DIGIT_SCENES', str(digit_scenes))
    turned, upright = (
        Config.fromfile(CONFIGS / f'_base_/datasets/{name}.py')
        for name in ('digits_turned', 'digits_cls')
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        lying, standing = (
            DATASETS.build(cfg.val_dataloader.dataset)
            for cfg in (turned, upright)
        )
        train = DATASETS.build(turned.train_dataloader.dataset)
    assert len(lying) == 500
    for index in (0, 250, 499):
        a, b = (d[index]['inputs'].numpy() for d in (lying, standing))
        np.testing.assert_array_equal(a, 255 - np.rot90(b, axes=(1, 2)))
    assert len(train) == 433
    classes = np.bincount(train.get_gt_labels())
    # Every third of the files: a third of each class.
    assert len(classes) == 10
    assert classes.min() > 35


def tune(work: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, str(TOOL), '--work-dir', str(work), *args],
        cwd=work,
        env=dict(
            PYTHONPATH=str(ROOT), PATH='/usr/bin:/bin', OMP_NUM_THREADS='1'
        ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_runs_and_goes_on(tmp_path):
    few = ('--smoke', '--backbones', 'vit', '--methods', 'rlrr')
    first = tune(tmp_path, *few)
    assert 'done before' not in first
    log = (tmp_path / 'logs/train-vit-rlrr.log').read_text()
    assert f'{tmp_path}/vit-pretrain/epoch_1.pth' in log
    second = tune(tmp_path, *few)
    assert second.count('done before (') == 2
    table = (tmp_path / 'table.md').read_text()
    assert table in first
    assert table in second
    (row,) = table.splitlines()[2:]
    cells = [cell.strip() for cell in row.split('|')[1:5]]
    assert cells == ['vit', 'RLRR', '12,160', '3.87']
    # Killed in its last validation: the checkpoint is there, no result. And
    # moved since: nothing of the old place is asked for.
    moved = tmp_path.with_name(f'{tmp_path.name}-moved')
    tmp_path.rename(moved)
    run = moved / 'vit-rlrr'
    (run / jobs.STATE).write_text(
        (run / jobs.STATE).read_text().replace('["train"]', '[]')
    )
    (scalars,) = run.glob('*/vis_data/scalars.json')
    lines = scalars.read_text().splitlines(keepends=True)
    trained = [line for line in lines if 'accuracy/top1' not in line]
    assert len(trained) == len(lines) - 1
    scalars.write_text(''.join(trained))
    third = tune(moved, *few)
    assert third.count('done before (') == 1
    assert 'other settings' not in third
    assert (moved / 'table.md').read_text() == table
    # A result of other settings is not passed off as one of these.
    longer = tune(moved, *few[1:])
    assert longer.count('done before, with other settings') == 2


def test_table_of_made_results():
    rows = {
        'swin': [Row('linear probing', 0, 0.0, 71.26, 0.1)],
        'vit': [Row('RLRR', 12160, 3.87, 93.0, 0.0456)],
    }
    lines = tuning_table.format_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert '|           71.3 |         0.100 |' in lines[2]
    assert '|                12,160 |          3.87 |' in lines[3]
