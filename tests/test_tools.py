"""The command lines, with two CPU processes where users have eight GPUs."""

import os
import pickle
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmlowrank.analysis.run_results import read_metrics

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/quickstart/faster-rcnn_swin-mini_{}.py'
LORAND = CONFIG.format('lorand-b2r8_400it_digits-voc')
FROM_SCRATCH = 'model.backbone.init_cfg=None'
# What a test must bear: an average, patterns, and a model in a model.
AVERAGED = """
_base_ = '{base}'
custom_hooks = [dict(type='EMAHook')]
optim_wrapper = dict(freeze=['neck.fpn_convs'])
tta_model = dict(
    type='DetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
)
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(160, 160))],
            [dict(type='RandomFlip', prob=p) for p in (1.0, 0.0)],
            [dict(type='LoadAnnotations', with_bbox=True)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=(
                        'img_id', 'img_path', 'ori_shape', 'img_shape',
                        'scale_factor', 'flip', 'flip_direction',
                    ),
                )
            ],
        ],
    ),
]
"""


def run(scenes, *command, fails=False):
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=dict(
            os.environ,
            DIGIT_SCENES=str(scenes),
            OMP_NUM_THREADS='1',
            PYTHON=sys.executable,
            PORT=str(free_port()),
        ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, output[-4000:]
    return output


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture(scope='module')
def trained(digit_scenes, tmp_path_factory):
    """Two iterations of LoRand in two processes; neck.1 is frozen late."""
    work = tmp_path_factory.mktemp('trained')
    output = run(
        digit_scenes,
        'bash',
        'tools/dist_train.sh',
        LORAND,
        2,
        '--work-dir',
        work,
        '--cfg-options',
        FROM_SCRATCH,
        'train_cfg.max_iters=2',
        "optim_wrapper.freeze=['neck.fpn_convs']",
    )
    return work, output


def test_two_processes_train(trained):
    work, output = trained
    assert (work / 'iter_2.pth').is_file()
    assert 'backbone.tuner (LoRand)' in output
    # One summary instead of a warning for each frozen tensor.
    assert output.count('Training ') >= 1
    assert 'is skipped since its requires_grad' not in output


def test_two_processes_test(trained, digit_scenes, tmp_path):
    work, _ = trained
    config = tmp_path / 'config.py'
    config.write_text(AVERAGED.format(base=ROOT / LORAND))
    run(
        digit_scenes,
        'bash',
        'tools/dist_test.sh',
        config,
        work / 'iter_2.pth',
        2,
        '--tta',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        FROM_SCRATCH,
    )
    assert 'pascal_voc/mAP' in read_metrics(tmp_path)


def test_pictures_are_drawn_in_one_process():
    draw = runpy.run_path(str(ROOT / 'tools/test.py'))['draw']
    with pytest.raises(SystemExit, match='without --launcher'):
        draw(Config(dict(launcher='pytorch')), 'folder')


def test_a_first_start_with_resume_loads_the_weights(digit_scenes, tmp_path):
    output = run(
        digit_scenes,
        sys.executable,
        'tools/train.py',
        LORAND,
        '--resume',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        FROM_SCRATCH,
        'load_from=nowhere.pth',
        fails=True,
    )
    assert 'nowhere.pth can not be found' in output


def test_pictures_and_predictions(trained, digit_scenes, tmp_path):
    work, _ = trained
    pictures, predictions = tmp_path / 'pictures', tmp_path / 'out.pkl'
    run(
        digit_scenes,
        sys.executable,
        'tools/test.py',
        LORAND,
        work / 'iter_2.pth',
        '--work-dir',
        tmp_path,
        '--show-dir',
        pictures,
        '--out',
        predictions,
    )
    assert len(list(pictures.rglob('*.jpg'))) == 4
    assert len(pickle.loads(predictions.read_bytes())) == 4


@pytest.mark.parametrize('by', ['argument', 'config'])
def test_resume_continues_in_a_copy(by, trained, digit_scenes, tmp_path):
    """mmengine writes the place of the checkpoint down as it was."""
    copy = shutil.copytree(trained[0], tmp_path / 'copy')
    output = run(
        digit_scenes,
        sys.executable,
        'tools/train.py',
        LORAND,
        '--work-dir',
        copy,
        *(['--resume'] if by == 'argument' else []),
        '--cfg-options',
        FROM_SCRATCH,
        'train_cfg.max_iters=3',
        "optim_wrapper.freeze=['neck.fpn_convs']",
        *(['resume=True'] if by == 'config' else []),
    )
    assert f'Load checkpoint from {copy}/iter_2.pth' in output
    assert 'resumed epoch: 0, iter: 2' in output
    assert (copy / 'iter_3.pth').is_file()


def test_a_checkpoint_of_another_model_is_refused(trained, digit_scenes):
    work, _ = trained
    output = run(
        digit_scenes,
        sys.executable,
        'tools/test.py',
        LORAND,
        work / 'iter_2.pth',
        '--work-dir',
        work / 'other',
        '--cfg-options',
        'model.backbone.rank=4',
        fails=True,
    )
    assert 'is not a checkpoint of this config' in output
    assert 'size mismatch' in output


@pytest.mark.parametrize(
    'words, sentence',
    [
        (['tools/test.py', LORAND, 'none.pth'], 'no checkpoint none.pth'),
        (['tools/train.py', 'configs/none.py'], 'no config configs/none.py'),
        (['tools/train.py', LORAND, '--amp'], '--amp needs a GPU'),
        (
            ['tools/train.py', LORAND, '--auto-scale-lr'],
            'needs auto_scale_lr.base_batch_size',
        ),
        (['tools/train.py', LORAND], 'does not exist'),
    ],
    ids=str,
)
def test_mistakes_are_answered_with_a_sentence(words, sentence, tmp_path):
    output = run(tmp_path / 'no_scenes', sys.executable, *words, fails=True)
    assert sentence in output
