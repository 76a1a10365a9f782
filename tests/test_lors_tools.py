"""The command lines around LORS, on digit scenes and on nothing at all."""

import json
import sys

import pytest
from test_tools import FROM_SCRATCH, run

from mmlowrank.analysis.run_results import read_metrics

CONFIG = 'configs/lors/adamixer-q30_swin-mini_{}_1600it_digits.py'
TWO = ('--cfg-options', FROM_SCRATCH, 'train_cfg.max_iters=2')


def train(scenes, kind, work):
    config = CONFIG.format(kind)
    command = (sys.executable, 'tools/train.py', config, '--work-dir', work)
    return run(scenes, *command, *TWO)


def test_adamixer_trains(digit_scenes, tmp_path):
    output = train(digit_scenes, 'plain', tmp_path)
    assert 's2.loss_iou' in output
    assert (tmp_path / 'iter_2.pth').is_file()


def test_lors_trains_tests_and_draws(digit_scenes, tmp_path):
    output = train(digit_scenes, 'lors', tmp_path)
    # The audit finds a gradient everywhere; 30 boxes do not train.
    assert 'Training 2,897,460 of 2,897,580 parameters' in output
    pictures, checkpoint = tmp_path / 'pictures', tmp_path / 'iter_2.pth'
    run(
        *(digit_scenes, sys.executable, 'tools/test.py'),
        *(CONFIG.format('lors'), checkpoint, '--work-dir', tmp_path / 'test'),
        *('--show-dir', pictures, '--cfg-options', FROM_SCRATCH),
    )
    assert len(list(pictures.rglob('*.jpg'))) == 4
    assert 'coco/bbox_mAP' in read_metrics(tmp_path / 'test')


def test_a_vit_of_shared_blocks_trains(digit_scenes, tmp_path):
    output = run(
        *(digit_scenes, sys.executable, 'tools/train.py'),
        'configs/lors/vit-mini_lors-t_200e_digits.py',
        *('--work-dir', tmp_path, '--cfg-options'),
        *(f'train_cfg.{key}=1' for key in ('max_epochs', 'val_interval')),
    )
    # The audit finds a gradient everywhere.
    assert 'Training 167,306 of 167,306 parameters' in output
    assert 'accuracy/top1' in output
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_a_dino_of_shared_layers_trains(digit_scenes, tmp_path):
    output = run(
        *(digit_scenes, sys.executable, 'tools/train.py'),
        'configs/lors/dino-q50_swin-mini_lors-t_800it_digits.py',
        *('--work-dir', tmp_path, '--cfg-options', FROM_SCRATCH),
        *('train_cfg.max_iters=2', 'default_hooks.logger.interval=1'),
    )
    # The audit finds a gradient everywhere.
    assert 'Training 2,616,192 of 2,616,192 parameters' in output
    assert 'dn_loss_iou' in output
    assert (tmp_path / 'iter_2.pth').is_file()


def test_multiply_adds_from_the_command_line(tool):
    config = 'configs/lors/adamixer-q100_r50_lors_1x_coco.py'
    found = {
        form: json.loads(tool('get_flops.py', config, '--json', *form))
        for form in ((), ('--unmerged',), ('--as-paper',))
    }
    decoders = [round(count['decoder'] / 1e9, 3) for count in found.values()]
    assert decoders == [16.067, 17.602, 17.846]
    # ResNet-50's convolutions at 800 x 1280.
    assert round(found[()]['backbone'] / 1e9, 3) == 83.411
    # 1 x 1 convolutions on maps of strides 4 to 32.
    pixels = [200 * 320 // 4**level for level in range(4)]
    neck = sum(256**2 * 2**i * n for i, n in enumerate(pixels))
    assert found[()]['neck'] == neck
    assert found[()]['total'] == sum(
        found[()][part] for part in ('backbone', 'neck', 'decoder')
    )


@pytest.mark.parametrize('parts', ['shared', 'private'])
def test_multiply_adds_of_the_ablations(tool, parts):
    config = f'configs/lors/adamixer-q100_r50_lors-{parts}-only_1x_coco.py'
    decoders = [
        json.loads(tool('get_flops.py', config, '--json', *form))['decoder']
        for form in ((), ('--unmerged',), ('--as-paper',))
    ]
    merged, unmerged, paper = decoders
    # Merged, all are a plain decoder. The paper forms the private weight of
    # the output projection too.
    assert round(merged / 1e9, 3) == 16.067
    assert unmerged < paper


def test_multiply_adds_of_another_framework(tool):
    config = 'configs/quickstart/pretrain_swin-mini_digits.py'
    words = ('get_flops.py', config, '--shape', 40, 40)
    output = tool(*words)
    assert f'{config}, 1 x 3 x 40 x 40' in output
    assert 'backbone' in output


def test_what_needs_data_is_refused(tool):
    config = 'configs/quickstart/mask-rcnn_swin-mini_fixed_800it_digits.py'
    with pytest.raises(RuntimeError, match='neither data samples nor'):
        tool('get_flops.py', config)


def test_measuring_prints_ratios(tool, tmp_path):
    small = ('--batch', 1, '--queries', 3, '--shape', 64, 64, '--repeats', 1)
    output = tool('measure_lors.py', *small, '--json', tmp_path / 'all.json')
    assert 'Six stages, 1 x 3 queries, images of 64 x 64, fp32, cpu' in output
    numbers = json.loads((tmp_path / 'all.json').read_text())
    ours, paper = numbers['training']
    ratio = ours['saved_bytes'] / paper['saved_bytes']
    assert f'{ratio:.3f}' in output
    assert set(numbers['inference']) == {
        *('LORS, merged', 'LORS, unmerged', 'AdaMixer 2x64')
    }
