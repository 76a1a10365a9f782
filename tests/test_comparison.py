"""The comparison of all methods: its configs, its table, its plot."""

import json
import math
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config

from mmlowrank.analysis import comparison, count_parameters, seeds_table

ROOT = Path(__file__).resolve().parents[1]
# Widths of the small Swin's blocks: 2 of 32, 64, 128 and 256.
S1, S2, BLOCKS, C = 960, 174_080, 8, 32
TABLES = 81 * 2 * (1 + 2 + 4 + 8)
MERGES = sum(8 * d * d + 8 * d for d in (32, 64, 128))
OUTPUT_NORMS = 2 * (32 + 64 + 128 + 256)
COUNTS = {
    'FULL': 12 * S2 + 13 * S1 + TABLES + MERGES + 51 * C + OUTPUT_NORMS,
    'FIXED': 0,
    'BitFit': 11 * S1 + TABLES + 4 * 224 + 2 * C + OUTPUT_NORMS // 2,
    'NormTuning': 4 * S1 + 8 * 224 + 2 * C + OUTPUT_NORMS,
    'Partial-1': 12 * 256**2 + 13 * 256 + 81 * 8,
    'Adapter': 2 * ((2 * 48 + 1) * S1 + 48 * BLOCKS),
    'AdaptFormer': 2 * ((2 * 48 + 1) * S1 + 48 * BLOCKS),
    'LoRA': 4 * 32 * S1,
    'LoRand': 195 * S1 + 512 * BLOCKS,
    'E3VA': 195 * S1 + 30 * C,
    # (2 m + 5) d + 88 m + m^2 an adapter, of width m = 32.
    'Mona': 2 * (69 * S1 + (88 * 32 + 32**2) * BLOCKS),
    # (2 r + 1) d + 2 r m + 4 r + 12 m, of rank r = 28 and width m = 72.
    'CoLin': 2 * (57 * S1 + (56 * 72 + 4 * 28 + 12 * 72) * BLOCKS),
    'E3VA+Mona': 2 * (69 * S1 + (88 * 32 + 32**2) * BLOCKS) + 30 * C,
    'E3VA+CoLin': 2 * (57 * S1 + (56 * 72 + 4 * 28 + 12 * 72) * BLOCKS)
    + 30 * C,
    # As tests/test_tune_digits.py has them, but all output norms train.
    'SSF': 22 * S1 + 4 * C + 12 * 224 + OUTPUT_NORMS,
    'RLRR': 29 * S1 + 8 * 224 + OUTPUT_NORMS,
}


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    (folder / 'left-over.py').write_text('')
    comparison.write_configs(folder, comparison.METHODS)
    return folder


def test_one_config_for_each_method_and_task(configs):
    assert {path.stem for path in configs.glob('*.py')} == {
        f'{method}{task}'
        for method in comparison.METHODS
        for task in ('', '-seg')
    }


@pytest.mark.parametrize('method', comparison.METHODS)
def test_configs_train_the_closed_form(configs, method):
    for name in (method, f'{method}-seg'):
        cfg = Config.fromfile(configs / f'{name}.py')
        assert count_parameters(cfg)['backbone_trainable'] == COUNTS[method]


@pytest.mark.parametrize('method', ['FULL', 'FIXED', 'LoRand'])
def test_the_quickstarts_own_runs_are_the_same(configs, method):
    """So that its finished runs may stand in the table."""
    (leaf,) = comparison.LEAVES.glob(
        f'mask-rcnn_swin-mini_{method.lower()}*.py'
    )
    ours = Config.fromfile(configs / f'{method}.py')
    assert ours.to_dict() == Config.fromfile(leaf).to_dict()


def test_pretrained_matrices_move_as_in_the_full_leaf(configs):
    slow = {
        path.stem
        for path in configs.glob('*.py')
        if 'paramwise_cfg' in Config.fromfile(path).optim_wrapper
    }
    assert slow == {'FULL', 'FULL-seg', 'Partial-1', 'Partial-1-seg'}


def write_run(folder, metrics):
    result = folder / 'test/20260101_000001/20260101_000001.json'
    result.parent.mkdir(parents=True)
    result.write_text(json.dumps(metrics))


def test_report_of_finished_runs(digit_scenes, tmp_path, monkeypatch):
    monkeypatch.setenv('DIGIT_SCENES', str(digit_scenes))
    for method, bbox in (('E3VA', 0.5), ('FIXED', None)):
        metrics = {} if bbox is None else {'coco/bbox_mAP': bbox}
        write_run(tmp_path / method.lower(), metrics)
        write_run(tmp_path / f'{method.lower()}-seg', {'mIoU': 61.25})
    comparison.write_configs(tmp_path / 'configs', ['E3VA', 'FIXED'])
    e3va, fixed = comparison.read_rows(tmp_path, ['E3VA', 'FIXED'])
    assert (e3va.trainable, e3va.bbox, e3va.miou) == (
        COUNTS['E3VA'],
        0.5,
        61.25,
    )
    assert e3va.saved > fixed.saved == 0
    assert math.isnan(fixed.bbox)
    comparison.write_report([e3va, fixed], tmp_path / 'docs/report.md')
    text = (tmp_path / 'docs/report.md').read_text()
    assert comparison.format_table([e3va, fixed]) in text
    assert '](report.png)' in text
    assert 'Time is not here' in text
    assert 'compare_methods.sh\n' in text
    assert cv2.imread(str(tmp_path / 'docs/report.png')).std() > 10


def test_a_smoke_test_is_called_one(tmp_path):
    comparison.write_report([row('E3VA', 1, 0.5)], tmp_path / 'x.md', True)
    text = (tmp_path / 'x.md').read_text()
    assert 'compare_methods.sh --smoke\n' in text
    assert 'the numbers mean nothing' in text
    assert 'schedules' not in text


def row(method, saved, bbox):
    return comparison.Row(method, 0, 0.0, saved, bbox, 0.0)


def test_pareto_front():
    rows = [
        row('dear and good', 9, 0.9),
        row('dear and bad', 9, 0.3),
        row('cheap', 1, 0.4),
        row('blind', 0, math.nan),
        row('no better for more', 5, 0.4),
    ]
    front = comparison.pareto_front(rows, lambda r: r.saved)
    assert [r.method for r in front] == ['cheap', 'dear and good']


def test_the_table_is_even_and_blind_runs_show():
    rows = [row('E3VA', 13 * 2**20, 0.51234), row('FIXED', 0, math.nan)]
    lines = comparison.format_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert '|      13.0 |    0.512 |' in lines[2]
    assert '|       0.0 |        - |' in lines[3]


def test_the_section_of_several_seeds(digit_scenes, tmp_path, monkeypatch):
    """Below the table of all methods, whichever is written last."""
    monkeypatch.setenv('DIGIT_SCENES', str(digit_scenes))
    methods, page = ['Adapter', 'E3VA', 'E3VA+Mona'], tmp_path / 'page.md'
    scores = [(0.7, 0.6), (0.5, 0.4), (0.55, 0.5)]
    for seed in (0, 1):
        work = tmp_path / str(seed)
        comparison.write_configs(work / 'configs', methods, [''])
        assert len([*(work / 'configs').iterdir()]) == 3
        for method, score in zip(methods, scores, strict=True):
            metrics = {'coco/bbox_mAP': score[seed]}
            write_run(work / method.lower(), metrics)
    works = [tmp_path / '0', tmp_path / '1']
    rows = seeds_table.read_rows(works, methods, repeats=1)
    assert [(r.method, r.trainable, r.bbox) for r in rows] == [
        (method, COUNTS[method], score)
        for method, score in zip(methods, scores, strict=True)
    ]
    assert all(r.saved > 0 and r.seconds > 0 for r in rows)
    comparison.write_report([row('E3VA', 1, 0.5)], page)
    above = page.read_text()
    seeds_table.write_section(rows, (0, 1), page)
    seeds_table.write_section(rows, (0, 1), page)
    text = page.read_text()
    assert text.startswith(above) and text.count(seeds_table.TITLE) == 1
    assert seeds_table.format_table(rows, (0, 1)) in text
    assert '--seeds 0 1' in text
    assert '--methods Adapter E3VA E3VA+Mona\n' in text
    assert 'gap between E3VA and Adapter, 25 % at seed 0, 50 % at' in text
    comparison.write_report([row('E3VA', 1, 0.5)], page)
    assert page.read_text() == text


def test_the_section_of_fewer_bits(digit_scenes, tmp_path, monkeypatch):
    """Beside the other one, whichever is written last."""
    monkeypatch.setenv('DIGIT_SCENES', str(digit_scenes))
    methods, page = ['Partial-1', 'Partial-1-int8'], tmp_path / 'page.md'
    comparison.write_configs(tmp_path / 'configs', methods, [''])
    for method, score in zip(methods, (0.5, 0.45), strict=True):
        write_run(tmp_path / method.lower(), {'coco/bbox_mAP': score})
    rows = seeds_table.read_rows([tmp_path], methods, repeats=1)
    assert rows[1].saved < 0.3 * rows[0].saved
    other = [seeds_table.Row('Adapter', 9, 2**20, 0.5, (0.25,))]
    for _ in range(2):
        seeds_table.write_section(rows, [3], page, ['exact', 'int8'])
        seeds_table.write_section(other, [3], page)
    text = page.read_text()
    assert text.count('## ') == 2
    assert seeds_table.format_table(rows, [3]) in text
    assert seeds_table.format_table(other, [3]) in text
    assert '- Partial-1 in int8: box mAP -0.050 at seed 3; 0.2' in text
    assert '--methods Partial-1 \\\n  --saved exact int8\n' in text


def test_a_seed_without_a_box_shows():
    rows = [seeds_table.Row('Adapter', 9, 2**20, 0.5, (0.25, math.nan))]
    lines = seeds_table.format_table(rows, (3, 4)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert '|       1.0 |' in lines[2]
    assert lines[2].endswith('|   0.500 |  0.250 |      - |      - |')
    assert seeds_table.against_e3va(rows, (3, 4)) == ''
