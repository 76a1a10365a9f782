"""A leaf of each head and data set trains on data that a variable names."""

import math
import os
import re
import runpy
import sys
from pathlib import Path

import made_data
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmlowrank.engine.data_files import innermost_datasets

ROOT = Path(__file__).resolve().parents[1]
CASCADE = 'lorand/cascade-mask-rcnn_swin-b_lorand-b2r8_3x_coco'
FASTER = 'lorand/faster-rcnn_swin-b_lorand-b2r8_1x_voc0712'
RETINA = 'e3va/retinanet_swin-l_e3va-r8_1x_voc0712'
UPERNET = 'lorand/upernet_swin-b_lorand-b2r8_160k_ade20k'
ADAMIXER = 'lors/adamixer-q100_r50_lors_1x_coco'
# Every data set configuration of the leaves -> variable, default.
VARIABLES = {
    CASCADE: ('COCO_ROOT', 'data/coco'),
    ADAMIXER: ('COCO_ROOT', 'data/coco'),
    FASTER: ('VOC_ROOT', 'data/VOCdevkit'),
    RETINA: ('VOC_ROOT', 'data/VOCdevkit'),
    UPERNET: ('ADE_ROOT', 'data/ade/ADEChallengeData2016'),
}

# What makes a leaf small; none of it is about where the data is.
ALL = (
    'model.backbone.init_cfg=None',
    'default_hooks.logger.interval=1',
    *(
        f'{split}_dataloader.{option}'
        for split in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ),
)
SWIN = (
    'model.backbone.embed_dims=16',
    'model.backbone.depths=[1,1,1,1]',
    'model.backbone.num_heads=[1,1,1,1]',
)
ONE_EPOCH = ('train_cfg.max_epochs=1', 'train_dataloader.batch_size=1')
SCALE = '[(96,64)]'
COCO_CROP = tuple(
    f'train_dataloader.dataset.pipeline.3.transforms.{option}'
    for option in (
        f'0.0.scales={SCALE}',
        f'1.0.scales={SCALE}',
        '1.1.crop_size=(48,64)',
        f'1.2.scales={SCALE}',
    )
)
SMALL_TEST = ('val_dataloader.dataset.pipeline.1.scale=(96,64)',)
FEW_ROIS = (
    'model.neck.in_channels=[16,32,64,128]',
    'model.train_cfg.rpn_proposal.max_per_img=20',
    'model.test_cfg.rpn.max_per_img=10',
    'model.test_cfg.rcnn.score_thr=0',
)
VOC = (
    *SMALL_TEST,
    *ONE_EPOCH,
    'train_dataloader.dataset.times=1',
    *(
        f'train_dataloader.dataset.dataset.datasets.{i}.pipeline.2.scale='
        '(96,64)'
        for i in range(2)
    ),
)
UPERNET_SIZES = (
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    'model.data_preprocessor.size=(64,64)',
    'model.decode_head.in_channels=[16,32,64,128]',
    'model.decode_head.channels=32',
    'model.auxiliary_head.in_channels=64',
    'model.auxiliary_head.channels=32',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
)
OPTIONS = {
    CASCADE: (
        *SWIN,
        *COCO_CROP,
        *SMALL_TEST,
        *ONE_EPOCH,
        *FEW_ROIS,
        *(
            f'model.{option}'
            for i in range(3)
            for option in (
                f'roi_head.bbox_head.{i}.fc_out_channels=32',
                f'train_cfg.rcnn.{i}.sampler.num=16',
            )
        ),
    ),
    ADAMIXER: (
        'train_dataloader.dataset.pipeline.2.scale=(96,64)',
        *SMALL_TEST,
        *ONE_EPOCH,
        'model.queries.num_queries=10',
    ),
    FASTER: (
        *SWIN,
        *VOC,
        *FEW_ROIS,
        'model.roi_head.bbox_head.fc_out_channels=32',
        'model.train_cfg.rcnn.sampler.num=16',
    ),
    RETINA: (*SWIN, *VOC, 'model.neck.in_channels=[32,64,128]'),
    UPERNET: (
        *SWIN,
        *SMALL_TEST,
        'train_dataloader.dataset.pipeline.2.scale=(96,64)',
        *UPERNET_SIZES,
    ),
}
MAKERS = {
    'COCO_ROOT': lambda root: made_data.write_coco(root, coco_names()),
    'VOC_ROOT': made_data.write_voc,
    'ADE_ROOT': made_data.write_ade,
}


def coco_names() -> list[str]:
    from mmdet.datasets import CocoDataset

    return list(CocoDataset.METAINFO['classes'])


def load(leaf: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / f'{leaf}.py')


@pytest.mark.parametrize('leaf', VARIABLES)
def test_a_leaf_trains_and_validates(leaf, tmp_path, monkeypatch):
    variable, _ = VARIABLES[leaf]
    data, work = MAKERS[variable](tmp_path / 'data'), tmp_path / 'work'
    monkeypatch.setenv(variable, str(data))
    monkeypatch.chdir(tmp_path)
    words = [
        str(ROOT / 'tools' / 'train.py'),
        str(ROOT / 'configs' / f'{leaf}.py'),
        '--work-dir',
        str(work),
        '--cfg-options',
        *ALL,
        *OPTIONS[leaf],
    ]
    monkeypatch.setattr(sys, 'argv', words)
    runpy.run_path(words[0], run_name='__main__')
    (log,) = work.glob('*/*.log')
    text = log.read_text()
    losses = re.findall(r'\(train\).* loss: (\S+)', text)
    assert len(losses) == 2
    assert all(math.isfinite(float(loss)) for loss in losses)
    # A validation with a result: the evaluator found its file, too.
    assert re.search(r'\(val\).*(mAP|mIoU): \d', text)


@pytest.mark.parametrize('slash', ['', '/'])
@pytest.mark.parametrize('leaf', VARIABLES)
def test_a_root_moves_every_path(leaf, slash, monkeypatch):
    """And nothing else; unset, the paths are those of the papers' code."""
    variable, default = VARIABLES[leaf]
    monkeypatch.delenv(variable, raising=False)
    stock = load(leaf)
    assert paths_of(stock) and {
        path.startswith(f'{default}/') for path in paths_of(stock)
    } == {True}
    monkeypatch.setenv(variable, f'/some/where{slash}')
    moved = load(leaf)
    assert paths_of(moved) == [
        path.replace(default, '/some/where', 1) for path in paths_of(stock)
    ]
    assert without_roots(moved) == without_roots(stock)


def paths_of(cfg: Config) -> list[str]:
    """All that the data sets and evaluators of a config read."""
    paths = []
    for split in ('train', 'val', 'test'):
        key = f'{split}_dataloader'
        for _, dataset in innermost_datasets(cfg[key], key):
            parts = [dataset.get('ann_file'), *dataset.data_prefix.values()]
            paths += [
                os.path.join(dataset.data_root, part)  # noqa: PTH118
                for part in parts
                if part
            ]
        if split != 'train' and 'ann_file' in cfg[f'{split}_evaluator']:
            paths.append(cfg[f'{split}_evaluator'].ann_file)
    return paths


def without_roots(node: object) -> object:
    if isinstance(node, Config):
        node = node.to_dict()
    if isinstance(node, dict):
        left_out = ('data_root', 'ann_file')
        return {
            k: without_roots(v) for k, v in node.items() if k not in left_out
        }
    if isinstance(node, (list, tuple)):
        return [without_roots(child) for child in node]
    return node


def test_small_objects_of_voc_are_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv('VOC_ROOT', str(made_data.write_voc(tmp_path)))
    cfg = load(FASTER)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert min(made_data.BOXES[1][2:]) < 32
    sample = dataset[0]['data_samples']
    assert len(sample.gt_instances) == 2
    assert len(sample.ignored_instances) == 0
    filters = found_filters(cfg.train_dataloader.dataset)
    assert filters == [dict(filter_empty_gt=True, min_size=32)] * 2


def found_filters(dataset: dict) -> list[dict]:
    return [d.filter_cfg for _, d in innermost_datasets(dataset, '')]


@pytest.mark.parametrize(
    'path',
    [
        path.relative_to(ROOT)
        for path in sorted((ROOT / 'configs').rglob('*.py'))
        if re.search(r'\{\{\$\w+(ROOT|SCENES|SWIN|VIT):', path.read_text())
    ],
)
def test_a_root_may_have_any_name(path, tmp_path, monkeypatch):
    """mmengine puts the variable into the text of the config."""
    root = str(tmp_path / 'it\'s "here"/new')
    (name,) = set(re.findall(r'\{\{\$(\w+):', (ROOT / path).read_text()))
    monkeypatch.setenv(name, root)
    assert repr(root) in repr(Config.fromfile(ROOT / path).to_dict())
