"""Pictures of a test: none overwrites another, in three frameworks."""

import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.visualization import Visualizer
from mmpretrain.structures import DataSample

from mmlowrank.analysis.run_results import read_metrics
from mmlowrank.engine import PicturesHook

ROOT = Path(__file__).resolve().parents[1]
LEAVES = ROOT / 'configs' / 'quickstart'
# Two test sets, one of them in a repeated one, as mmdet nests them.
DETECTOR = """
_base_ = '{leaves}/faster-rcnn_swin-mini_lorand-b2r8_400it_digits-voc.py'
test_dataloader = dict(dataset=dict(
    _delete_=True,
    type='ConcatDataset',
    datasets=[
        dict(_base_.test_dataloader.dataset, data_root='{one}'),
        dict(type='RepeatDataset', times=1,
             dataset=dict(_base_.test_dataloader.dataset, data_root='{two}')),
    ]))
test_evaluator = dict(iou_thrs=[0.5])
tta_model = dict(
    type='DetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(160, 160))],
            [dict(type='RandomFlip', prob=p) for p in (1.0, 0.0)],
            [dict(type='LoadAnnotations', with_bbox=True)],
            [dict(type='PackDetInputs', meta_keys=(
                'img_id', 'img_path', 'ori_shape', 'img_shape',
                'scale_factor', 'flip', 'flip_direction'))],
        ],
    ),
]
"""
SEGMENTOR = """
_base_ = '{leaves}/upernet_swin-mini_lorand-b4r8_1200it_digits.py'
test_dataloader = dict(dataset=dict(
    data_root='{one}', data_prefix=dict(img_path='i', seg_map_path='s')))
"""
CLASSIFIER = """
_base_ = '{leaves}/swin-mini_lora-r8_30e_digits-turned.py'
model = dict(head=dict(num_classes=2))
test_dataloader = dict(dataset=dict(data_root='{one}', data_prefix='i'))
"""


@pytest.fixture
def folders(tmp_path):
    """Two images of one name, and of a kind that OpenCV cannot write."""
    one = tmp_path / 'one'
    image = np.zeros((40, 40, 3), np.uint8)
    for folder in ('a', 'b'):
        for kind, suffix in (('i', 'jpg'), ('s', 'png')):
            path = one / kind / folder / f'same.{suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image if kind == 'i' else image[:, :, 0])
    return one


def run_test(tmp_path, monkeypatch, text, *words, **names):
    """Run tools/test.py with weights that are drawn."""
    config, checkpoint = tmp_path / 'config.py', tmp_path / 'drawn.pth'
    config.write_text(text.format(leaves=LEAVES, **names))
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
    work = tmp_path / 'work'
    options = [f'visualizer.name={tmp_path.name}', 'env_cfg.cudnn_benchmark=0']
    words = [config, checkpoint, '--work-dir', work, *words]
    words += ['--cfg-options', *options]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, words)])
    runpy.run_path('tools/test.py', run_name='__main__')
    return work


def pictures(folder):
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob('*.*')
    )


def test_several_test_sets_are_augmented_and_drawn(
    digit_scenes, tmp_path, monkeypatch
):
    one, two = tmp_path / 'one', tmp_path / 'two'
    for copy in (one, two):
        shutil.copytree(digit_scenes, copy)
    work = run_test(
        tmp_path,
        monkeypatch,
        DETECTOR,
        '--tta',
        '--show-dir',
        tmp_path / 'out',
        one=one,
        two=two,
    )
    assert 'pascal_voc/mAP' in read_metrics(work)
    images = pictures(digit_scenes / 'images' / 'val')
    assert len(images) == 4
    assert pictures(tmp_path / 'out') == sorted(
        f'{root}/images/val/{image}'
        for root in ('one', 'two')
        for image in images
    )


@pytest.mark.parametrize('text', [SEGMENTOR, CLASSIFIER])
def test_pictures_of_one_name_are_all_kept(
    text, folders, tmp_path, monkeypatch
):
    out = tmp_path / 'out'
    run_test(tmp_path, monkeypatch, text, '--show-dir', out, one=folders)
    assert pictures(out) == ['a/same.jpg', 'b/same.jpg']
    assert cv2.imread(str(out / 'a/same.jpg')).std() > 0


@pytest.mark.parametrize('text', [SEGMENTOR, CLASSIFIER])
def test_pictures_are_shown(text, folders, tmp_path, monkeypatch):
    shown = []

    def show(self, drawn_img=None, win_name='', wait_time=0.0, **_):
        shown.append((win_name, wait_time))

    monkeypatch.setattr(Visualizer, 'show', show)
    words = ('--show', '--wait-time', '0.5')
    work = run_test(tmp_path, monkeypatch, text, *words, one=folders)
    assert shown == [('same.jpg', 0.5)] * 2
    # What is shown is not written, too.
    assert not list(work.rglob('*.jpg')) + list(work.rglob('*.png'))


def test_images_that_no_file_holds(tmp_path):
    """CIFAR's are arrays: drawn as the model gets them, named by number."""
    drawn = []

    class Numbers:
        def __len__(self):
            return 2

        def get_data_info(self, i):
            return dict(img=np.zeros((4, 4, 3), np.uint8), gt_label=i)

    def add_datasample(**kwargs):
        drawn.append((kwargs['image'], kwargs['out_file'], kwargs['name']))

    runner = SimpleNamespace(
        test_loop=SimpleNamespace(
            dataloader=SimpleNamespace(dataset=Numbers())
        ),
        visualizer=SimpleNamespace(add_datasample=add_datasample),
    )
    hook = PicturesHook(str(tmp_path))
    hook.before_test(runner)
    batch = dict(inputs=[torch.full((3, 4, 6), i) for i in (7, 8)])
    hook.after_test_iter(runner, 0, batch, [DataSample(), DataSample()])
    assert [image.shape for image, *_ in drawn] == [(4, 6, 3)] * 2
    assert [image.max() for image, *_ in drawn] == [7, 8]
    assert [rest for _, *rest in drawn] == [
        [str(tmp_path / '0.png'), '0.png'],
        [str(tmp_path / '1.png'), '1.png'],
    ]


def paths_of(*images):
    data = [dict(img_path=image) for image in images]

    class Data(list):
        get_data_info = list.__getitem__

    loader = SimpleNamespace(dataset=Data(data))
    hook = PicturesHook('out')
    loop = SimpleNamespace(dataloader=loader)
    hook.before_test(SimpleNamespace(test_loop=loop))
    return [hook.path_of(image) for image in images]


def test_where_a_picture_is_written():
    assert paths_of('d/val/1.jpg', 'd/val/2.jpg') == ['out/1.jpg', 'out/2.jpg']
    assert paths_of('/d/a/1.jpg', '/d/b/1.png') == [
        'out/a/1.jpg',
        'out/b/1.png',
    ]
    assert paths_of('/d/1.jpg', '/d/b/1.jpg') == ['out/1.jpg', 'out/b/1.jpg']
    assert paths_of('s3://x/a/1.jpg', 's3://x/b/1.jpg') == [
        'out/a/1.jpg',
        'out/b/1.jpg',
    ]
    assert paths_of('d/1.gif', 'd/2') == ['out/1.gif.png', 'out/2.png']


@pytest.mark.parametrize(
    'images',
    [
        ('/a/1.jpg', 'a/1.jpg'),
        ('../b/1.jpg', '/mnt/1.jpg', 'b/1.jpg'),
        ('s3://x/a/1.jpg', '/x/a/1.jpg'),
    ],
)
def test_no_picture_replaces_an_image_or_another(images, monkeypatch):
    monkeypatch.chdir('/usr/lib')
    found = paths_of(*images)
    assert len(set(found)) == len(images)
    for path in found:
        assert path.startswith('out/')
        assert '..' not in path
