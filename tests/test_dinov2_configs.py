"""The configs of DINOv2-B: what they count, and that they train and test."""

import ast
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from made_data import THIN_MASK_RCNN, write_ade, write_coco
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import MODELS, TASK_UTILS, DefaultScope
from pages import leave_layout_out
from test_strangers import trained_in_backbone

from mmlowrank.analysis import count_parameters

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'configs' / 'dinov2'
HEADS = {'mask-rcnn': '3x_coco', 'upernet': '160k_ade20k'}
WIDTH, BLOCKS = 768, 12
D = WIDTH * BLOCKS
# Tuner -> trainable parameters, those of them that the ViT has without it.
NORM = 2 * WIDTH
VIT = (
    # Patch projection, class token, table of 37 x 37 positions and one.
    (3 * 14**2 + 1) * WIDTH
    + WIDTH
    + (37**2 + 1) * WIDTH
    # Four linears of 12 d² with 9 d biases, two norms, two layer scales.
    + (12 * WIDTH + 9 + 4 + 2) * D
    + NORM
)
TUNERS = {
    'lorand-b2r8': ((6 * 2 * 8 + 3) * D + 2 * 2 * 8**2 * BLOCKS, 0),
    # Down and up, of q and of v.
    'lora-r64': (2 * 2 * 64 * D, 0),
    # Left and right scales: q, k, v, proj, fc1, and fc2, which is four times
    # as wide on one side; 9 d shifts, 4 d of two norms; patches, last norm.
    'rlrr': ((9 + 9 + 9 + 4) * D + 4 * WIDTH, 0),
    # Two adapters; the last norm trains.
    'e3va-r8': ((12 * 8 + 3) * D + NORM, NORM),
    'fixed': (0, 0),
    'full': (VIT, VIT),
}
each_tuner = pytest.mark.parametrize('tuner', TUNERS)
each_head = pytest.mark.parametrize('head', HEADS)


def path_of(head: str, tuner: str) -> Path:
    return FOLDER / f'{head}_dinov2-b_{tuner}_{HEADS[head]}.py'


@cache
def load(head: str, tuner: str) -> Config:
    return Config.fromfile(path_of(head, tuner))


@cache
def counts_of(head: str, tuner: str) -> dict[str, int]:
    return count_parameters(load(head, tuner))


def test_these_are_all():
    paths = {path_of(head, tuner) for head in HEADS for tuner in TUNERS}
    assert {*FOLDER.glob('*.py')} == paths


@each_head
@each_tuner
def test_trains_what_the_closed_form_says(head, tuner):
    counts = counts_of(head, tuner)
    trainable, stock = TUNERS[tuner]
    assert counts['backbone_stock'] == VIT == 86_579_712
    assert counts['backbone_trainable'] == trainable
    assert counts['backbone_added'] == trainable - stock
    # Everything behind the backbone trains.
    frozen = VIT - stock
    assert counts['model_total'] - counts['model_trainable'] == frozen


@pytest.mark.parametrize(
    ('tuner', 'count'),
    [
        ('lorand-b2r8', 915_456),
        ('lora-r64', 2_359_296),
        ('rlrr', 288_768),
        ('e3va-r8', 913_920),
    ],
)
def test_closed_forms_give_the_known_counts(tuner, count):
    assert TUNERS[tuner][0] == count


@each_head
@each_tuner
def test_docstring_and_readme(head, tuner):
    path = path_of(head, tuner)
    text = ast.get_docstring(ast.parse(path.read_text()))
    command = f'tools/dist_train.sh \\\n    {path.relative_to(ROOT)} 8'
    assert command in re.sub(r'\n +', '\n    ', text)
    assert 'No paper has this row. Not run here.' in text
    lines = (FOLDER / 'README.md').read_text().splitlines()
    (row,) = (line for line in lines if f']({path.name})' in line)
    counts = counts_of(head, tuner)
    share = 100 * counts['backbone_trainable'] / counts['backbone_stock']
    assert [f'{counts["backbone_trainable"]:,}', f'{share:.3f} %'] == [
        cell.strip() for cell in row.split('|')[2:4]
    ]
    assert f'{counts["model_trainable"]:,}' in row
    assert f'{counts["model_total"]:,}' in row


def test_the_readme_has_what_the_tool_prints(tool):
    path = path_of('mask-rcnn', 'lorand-b2r8').relative_to(ROOT)
    printed = tool('count_params.py', path)
    text = (FOLDER / 'README.md').read_text()
    assert f'count_params.py {path}\n' in text
    assert f'```text\n{printed[printed.index(str(path)) :]}```' in text


@each_head
def test_sixteen_images_a_step_at_the_rate_of_the_other_configs(head):
    cfg = load(head, 'lorand-b2r8')
    rate = {'mask-rcnn': 1e-4, 'upernet': 6e-5}[head]
    assert cfg.optim_wrapper.optimizer.lr == rate
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16


def test_the_shifts_of_rlrr_do_not_decay():
    for head in HEADS:
        keys = load(head, 'rlrr').optim_wrapper.paramwise_cfg.custom_keys
        assert keys['.shift'].decay_mult == 0
        assert '.bn.' in keys


# -- strides of 14, and a quarter of it ------------------------------------

STRIDES = [3.5, 7, 14, 28, 56]


def detector_parts():
    model = load('mask-rcnn', 'fixed').model
    assert model.data_preprocessor.pad_size_divisor % STRIDES[3] == 0
    with DefaultScope.overwrite_default_scope('mmdet'):
        anchors = TASK_UTILS.build(model.rpn_head.anchor_generator)
        extractors = [
            MODELS.build(dict(model.roi_head[key], out_channels=1))
            for key in ('bbox_roi_extractor', 'mask_roi_extractor')
        ]
    return anchors, extractors


def sizes_of(height, width):
    """Sizes of FPN's maps of an image that 28 divides."""
    sizes = [(int(height / s), int(width / s)) for s in STRIDES[:4]]
    # FPN takes every second value of the last map, the first one included.
    return [*sizes, tuple(-(-n // 2) for n in sizes[-1])]


def test_anchors_stand_where_the_cells_are():
    anchors, _ = detector_parts()
    sizes = sizes_of(84, 140)
    grids = anchors.grid_priors(sizes, device='cpu')
    flags = anchors.valid_flags(sizes, (84, 140), device='cpu')
    for level, stride in enumerate(STRIDES):
        boxes = grids[level].view(*sizes[level], 3, 4)
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        x = torch.arange(sizes[level][1]) * stride
        y = torch.arange(sizes[level][0]) * stride
        expected = torch.stack(torch.meshgrid(x, y, indexing='xy'), -1)
        torch.testing.assert_close(
            centres, expected[:, :, None].expand_as(centres).float()
        )
        # Of ratios 0.5, 1 and 2, in pixels as with other backbones.
        sides = boxes[0, 0, 1, 2:] - boxes[0, 0, 1, :2]
        assert sides.tolist() == [32 * 2**level] * 2
        assert flags[level].all()


def test_regions_are_read_where_they_are():
    """Of maps that hold the x of each cell, in pixels."""
    _, extractors = detector_parts()
    maps = [
        ((torch.arange(width) + 0.5) * stride).expand(1, 1, height, -1)
        for (height, width), stride in zip(
            sizes_of(560, 560)[:4], STRIDES[:4], strict=True
        )
    ]
    # One for each map; far enough from the border of the image.
    boxes = [[112, 112, side, side] for side in (100.0, 150.0, 300.0, 455.0)]
    rois = torch.tensor([[0, a, b, a + c, b + d] for a, b, c, d in boxes])
    rois[3, 1:] = torch.tensor([52.0, 52.0, 508.0, 508.0])
    for extractor in extractors:
        levels = extractor.map_roi_levels(rois, 4)
        assert levels.tolist() == [0, 1, 2, 3]
        read = extractor(maps, rois)
        bins = read.shape[-1]
        fraction = (torch.arange(bins) + 0.5) / bins
        for roi, values in zip(rois, read, strict=True):
            expected = roi[1] + fraction * (roi[3] - roi[1])
            torch.testing.assert_close(
                values[0], expected.expand(bins, -1), rtol=1e-4, atol=1e-2
            )


# -- as users run them, with a small ViT -----------------------------------

_SMALL = (
    'model.backbone.backbone.img_size=56',
    'model.backbone.backbone.out_indices=[0,1,2,3]',
    'model.backbone.backbone.init_cfg=None',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
)
ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)
SMALL = {
    'mask-rcnn': (
        *_SMALL,
        'train_cfg.max_epochs=1',
        # Two images a step would be one step.
        'train_dataloader.batch_size=1',
        *(
            f'train_dataloader.dataset.pipeline.3.transforms.{i}=[(126,84)]'
            for i in ('0.0.scales', '1.0.scales', '1.2.scales')
        ),
        'val_dataloader.dataset.pipeline.1.scale=(126,84)',
        'model.neck.0.embed_dim=32',
        'model.neck.1.in_channels=[32,32,32,32]',
        'model.neck.1.out_channels=16',
        *THIN_MASK_RCNN,
        'model.test_cfg.rcnn.score_thr=0',
        'model.test_cfg.rcnn.max_per_img=4',
    ),
    'upernet': (
        *_SMALL,
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'train_dataloader.dataset.pipeline.2.scale=(112,56)',
        'train_dataloader.dataset.pipeline.3.crop_size=(56,56)',
        # 90 x 60: what 14 does not divide.
        'val_dataloader.dataset.pipeline.1.scale=(120,60)',
        'model.data_preprocessor.size=(56,56)',
        'model.neck.embed_dim=32',
        'model.decode_head.in_channels=[32,32,32,32]',
        'model.decode_head.channels=16',
        'model.auxiliary_head.in_channels=32',
        'model.auxiliary_head.channels=16',
    ),
}
# What is measured; the other tuners only train.
VALIDATED = 'e3va-r8'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder in which ``data`` has what the configs look for."""
    root = tmp_path_factory.mktemp('dinov2')
    write_coco(root / 'data/coco', list(CocoDataset.METAINFO['classes']))
    write_ade(root / 'data/ade/ADEChallengeData2016')
    return root


@each_head
@each_tuner
def test_two_iterations_train(head, tuner, data, tmp_path, monkeypatch):
    """The audit of the first one lets the second one begin."""
    for name in ('COCO_ROOT', 'ADE_ROOT'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(data)
    leave_layout_out(monkeypatch)
    leaf = path_of(head, tuner)
    # Loggers have the name of the config and the second.
    config = tmp_path / leaf.name
    # An option cannot replace a text by a dict.
    config.write_text(
        f'_base_ = {str(leaf)!r}\n'
        f'arch = dict({ARCH}, _delete_=True)\n'
        'model = dict(backbone=dict(backbone=dict(arch=arch)))\n'
        'randomness = dict(seed=0)\n'
    )
    words = ['train.py', str(config), '--work-dir', str(tmp_path)]
    words += ['--cfg-options', *SMALL[head]]
    if tuner == 'lora-r64':
        # A rank that fits into the width.
        words.append('model.backbone.tuner.rank=8')
    if tuner != VALIDATED:
        words.insert(2, '--no-validate')
    monkeypatch.setattr(sys, 'argv', words)
    runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    (log,) = (path.read_text() for path in tmp_path.glob('*/*.log'))
    if tuner == VALIDATED:
        metric = {'mask-rcnn': 'coco/segm_mAP', 'upernet': 'mIoU'}[head]
        assert re.search(rf'{metric}: +[\d.-]+', log)
    if tuner != 'full':
        trained = trained_in_backbone(log)
        assert (trained == 0) == (tuner == 'fixed')


@each_head
def test_the_file_of_the_weights_is_read(head, tmp_path):
    """Its names begin with ``backbone.``, and its table may be another."""
    cfg = load(head, 'lorand-b2r8').copy()
    backbone = cfg.model.backbone.copy()
    assert backbone.backbone.init_cfg.prefix == 'backbone.'
    arch = dict(ARCH, num_layers=12)
    backbone.backbone.update(arch=arch, img_size=56)
    stock = dict(backbone.backbone, img_size=84, init_cfg=None)
    file = tmp_path / 'vit.pth'
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        source = MODELS.build(stock)
        for parameter in source.parameters():
            torch.nn.init.normal_(parameter)
        state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
        torch.save(dict(state_dict=state), file)
        backbone.backbone.init_cfg.checkpoint = str(file)
        tuned = MODELS.build(backbone)
        tuned.init_weights()
    found = tuned.state_dict()
    for name, value in source.state_dict().items():
        if name == 'pos_embed':
            assert found[name].shape == (1, 4**2 + 1, 32)
        else:
            assert torch.equal(found[name], value), name
