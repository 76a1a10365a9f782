"""The quickstart: every config runs, a killed script goes on, the report."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmlowrank.analysis import contact_sheet, quickstart, run_results
from mmlowrank.engine import jobs

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'quickstart'
OTHER_HEADS = {
    'cascade-mask-rcnn_swin-mini_lorand-b2r8_400it_digits': 'coco/segm_mAP',
    'faster-rcnn_swin-mini_lorand-b2r8_400it_digits-voc': 'pascal_voc/mAP',
    'upernet_swin-mini_lorand-b4r8_1200it_digits': 'mIoU',
}
PATIENCE = 300  # seconds


def environment(**extra: object) -> dict[str, str]:
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    extra = {name: str(value) for name, value in extra.items()}
    # Two of these run at a time, on what may be two cores.
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PATH': path, **extra}


def script(work: Path, *tool: str, **options: object) -> subprocess.Popen:
    name, *more = tool or ('quickstart.sh', '--no-setup')
    command = ['bash', ROOT / 'tools' / name, '--smoke', '--work-dir', work]
    return subprocess.Popen(
        [*map(str, command), *more],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


@pytest.fixture(scope='module')
def continued(tmp_path_factory):
    """A quickstart that was killed after its pre-training and runs again."""
    work = tmp_path_factory.mktemp('quickstart')
    first = script(work)
    deadline = time.time() + PATIENCE
    while not (work / 'full' / 'last_checkpoint').exists():
        assert first.poll() is None, first.stdout.read()
        assert time.time() < deadline, 'no checkpoint of FULL'
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130, output
    assert 'stopped; run it again to continue' in output
    assert json.loads((work / 'full' / jobs.STATE).read_text())['done'] == []
    second = script(work)
    yield work, second
    second.terminate()
    second.wait(timeout=60)


@pytest.fixture(scope='module')
def work(continued):
    """Work folder of that quickstart when it has finished."""
    work, second = continued
    output, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, output
    (work / 'output.txt').write_text(output)
    return work


def test_the_other_heads_train_and_test(continued, digit_scenes, tmp_path):
    """Runs beside the quickstart, whose pre-trained Swin it needs."""
    work, _ = continued
    env = environment(
        DIGIT_SCENES=digit_scenes,
        DIGIT_SWIN=work / 'pretrain' / 'epoch_1.pth',
    )

    def run(*command: object) -> None:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    two = ('--cfg-options', 'train_cfg.max_iters=2')
    for name, metric in OTHER_HEADS.items():
        config, out = CONFIGS / f'{name}.py', tmp_path / name
        run('tools/train.py', config, '--work-dir', out, *two)
        checkpoint = out / 'iter_2.pth'
        run('tools/test.py', config, checkpoint, '--work-dir', out / 'test')
        metrics = run_results.read_metrics(out / 'test')
        assert math.isfinite(metrics[metric])


def test_a_killed_quickstart_goes_on(work):
    output = (work / 'output.txt').read_text()
    assert 'already there with these settings' in output
    assert output.count('done before') == 1  # the pre-training
    log = (work / 'logs' / 'train-FULL.log').read_text()
    assert 'resumed epoch: 0, iter: ' in log


def test_the_end_shows_table_and_files(work):
    output = (work / 'output.txt').read_text()
    table = (work / 'table.md').read_text()
    assert table in output
    rows = [line.split('|')[1:5] for line in table.splitlines()[2:6]]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [row[:3] for row in cells] == [
        ['FIXED', '0', '0.00'],
        ['E3VA', '96,000', '4.21'],
        ['LoRand', '191,296', '8.39'],
        ['FULL', '2,280,286', '100.00'],
    ]
    saved = [float(row[3]) for row in cells]
    assert saved[0] == 0
    assert saved[1] < saved[2] / 2 < saved[3] / 3
    for name in ('pictures.png', 'trade_off.png'):
        assert str(work / name) in output
        assert cv2.imread(str(work / name)).std() > 10
    for line in output.splitlines():
        if line.startswith('  configs/'):
            assert (ROOT / line.split()[0]).exists()


def test_the_comparison_goes_on_from_there(work):
    """FIXED's Mask R-CNN is the quickstart's; E3VA and UPerNet are new."""
    process = script(work, 'analysis_tools/compare_methods.sh')
    try:
        output, _ = process.communicate(timeout=2 * PATIENCE)
    finally:
        process.terminate()
    assert process.returncode == 0, output
    assert f'done before (remove {work}/fixed to repeat' in output
    rows = (work / 'compare_methods.md').read_text().splitlines()[4:6]
    cells = [[cell.strip() for cell in row.split('|')[1:-1]] for row in rows]
    assert [row[:3] for row in cells] == [
        ['FIXED', '0', '0.00'],
        ['E3VA', '188,160', '8.25'],
    ]
    assert float(cells[0][3]) == 0 < float(cells[1][3])
    assert cv2.imread(str(work / 'compare_methods.png')).std() > 10


def test_detectors_start_from_the_pretrained_swin(work, monkeypatch):
    """The stock load is not strict and says nothing: compare tensors."""
    path = work / 'pretrain' / 'epoch_1.pth'
    saved = torch.load(path, weights_only=False)['state_dict']
    monkeypatch.setenv('DIGIT_SWIN', str(path))
    for name in (
        'mask-rcnn_swin-mini_lorand-b4r8_800it_digits',
        'upernet_swin-mini_lorand-b4r8_1200it_digits',
    ):
        cfg = Config.fromfile(CONFIGS / f'{name}.py')
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        model.init_weights()
        fresh = set()
        for key, value in model.backbone.state_dict().items():
            if f'backbone.{key}' in saved:
                torch.testing.assert_close(value, saved[f'backbone.{key}'])
            elif not key.startswith('tuner.'):
                fresh.add(key)
        # A classifier has an output norm for its last stage only.
        assert fresh == {
            f'norm{stage}.{kind}'
            for stage in range(3)
            for kind in ('weight', 'bias')
        }


def test_every_leaf_is_known_to_a_test():
    """Those below ``tuned`` are built in test_tune_digits.py.

    Those of ``served`` in test_serving.py.
    """
    timed = {
        'pretrain_swin-mini_digits',
        *(
            f'mask-rcnn_swin-mini_{method}_800it_digits'
            for method in ('fixed', 'full', 'lorand-b4r8', 'e3va-r8')
        ),
    }
    tuned = {
        f'{backbone}-mini_{tuner}_30e_digits-turned'
        for backbone in ('swin', 'vit')
        for tuner in ('fixed', 'ssf', 'lora-r8', 'rlrr', 'full')
    }
    served = {
        'faster-rcnn_swin-mini_e3va-r8_800it_digits-voc',
        'upernet_swin-mini_e3va-r8_1200it_digits',
    }
    assert {path.stem for path in CONFIGS.glob('*.py')} == timed | set(
        OTHER_HEADS
    ) | {'pretrain_vit-mini_digits'} | tuned | served


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        (['--seed', 'one'], "must be a whole number, got 'one'"),
        (['--fast'], 'Unknown argument: --fast'),
    ],
)
def test_the_script_refuses_nonsense(args, sentence):
    done = subprocess.run(
        ['bash', ROOT / 'tools/quickstart.sh', *args],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert sentence in done.stderr


def write_run(folder: Path, times: list[float], metrics: dict) -> None:
    log = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    lines = [json.dumps({'loss': 1.0, 'time': time}) for time in times]
    log.write_text('\n'.join([*lines, '{"loss": 1.0, "ti']))
    result = folder / 'test' / '20260101_000001' / '20260101_000001.json'
    result.parent.mkdir(parents=True)
    result.write_text(json.dumps(metrics))


def test_results_are_read_as_they_were_left(tmp_path):
    metrics = {'coco/bbox_mAP': 0.5}
    write_run(tmp_path, [9.0, 0.3, 0.2, 4.0], metrics)
    assert run_results.seconds_per_iteration(tmp_path) == 0.3
    assert run_results.read_metrics(tmp_path / 'test') == metrics
    # A later test run that was killed while it wrote.
    later = tmp_path / 'test' / '20260102_000000' / '20260102_000000.json'
    later.parent.mkdir()
    later.write_text('{"coco/bb')
    assert run_results.read_metrics(tmp_path / 'test') == metrics
    with pytest.raises(FileNotFoundError, match=r'no finished|no metrics'):
        run_results.read_metrics(tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match='no training log'):
        run_results.seconds_per_iteration(tmp_path / 'none')


def test_table_of_made_results(tmp_path):
    rows = [
        quickstart.Row('FIXED', 0, 0.0, 0, 0.4, 0.39),
        quickstart.Row('E3VA', 96000, 4.21, 13 << 20, 0.5, 0.49),
        quickstart.Row('LoRand', 97088, 4.26, 29 << 20, 0.55, 0.54),
        quickstart.Row('FULL', 2280286, 100.0, 57 << 20, 0.65, 0.64),
    ]
    table = quickstart.format_table(rows)
    assert '| LoRand |                97,088 |          4.26 ' in table
    assert '|      29.0 |    0.550 |    0.540 |' in table
    assert 'LoRand recovers 60 % of the box mAP' in table
    assert 'E3VA 40 %, without' in table
    assert len({len(line) for line in table.splitlines()[:6]}) == 1
    quickstart.plot_trade_off(rows, tmp_path / 'plot.png')
    assert cv2.imread(str(tmp_path / 'plot.png')).std() > 10

    # Nothing found: CocoMetric reports no mAP at all.
    blind = [quickstart.Row('FIXED', 0, 0.0, 0, math.nan, math.nan)]
    table = quickstart.format_table(blind + rows[1:])
    assert '|        - |        - |' in table
    assert 'recovers' not in table


def test_contact_sheet_draws_what_was_found(digit_scenes, tmp_path):
    truth = contact_sheet.truth_of(
        digit_scenes / 'annotations/instances_val.json'
    )
    assert len(truth) == 4
    name, instances = next(iter(sorted(truth.items())))
    image = cv2.imread(str(digit_scenes / 'images/val' / name))
    drawn = contact_sheet.draw_instances(image, instances, scale=2)
    plain = contact_sheet.draw_instances(image, [], scale=2)
    assert drawn.shape == (320, 320, 3)
    for instance in instances:
        inside = np.kron(instance['mask'], np.ones((2, 2), bool))
        assert (drawn != plain).any(-1)[inside].mean() > 0.9

    results = [
        {
            'img_path': f'somewhere/{name}',
            'pred_instances': {
                'labels': np.array([3, 4]),
                'scores': np.array([0.9, 0.1]),
                'bboxes': np.array([[1, 2, 30, 40], [0, 0, 9, 9]]),
                'masks': [
                    contact_sheet.coco_mask.encode(
                        np.asfortranarray(instances[0]['mask'], np.uint8)
                    )
                ]
                * 2,
            },
        }
    ]
    path = tmp_path / 'predictions.pkl'
    path.write_bytes(pickle.dumps(results))
    found = contact_sheet.predictions_of(path, threshold=0.4)
    assert [i['text'] for i in found[name]] == ['3 0.90']

    sheet = tmp_path / 'sheet.png'
    contact_sheet.write_contact_sheet(
        sheet,
        digit_scenes / 'images/val',
        {'ground truth': truth, 'LoRand': found},
        num_images=3,
    )
    assert cv2.imread(str(sheet)).shape == (34 + 3 * 326, 6 + 2 * 326, 3)
