"""A leaf of each model and data set trains on data that a variable names."""

import json
import math
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
VIT = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)
SWIN = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
# A leaf, its small trunk, the width of the head.
LEAVES = [
    ('vit-b-p16_rlrr_110e_vtab1k', VIT, 16),
    ('vit-b-p16_lora-r8_110e_vtab1k', VIT, 16),
    ('swin-b_mlp-4_110e_vtab1k', SWIN, 64),
    ('vit-b-p16_rlrr_60e_fgvc', VIT, 16),
    ('vit-b-p16-augreg_ssf_110e_fgvc', VIT, 16),
]
SMALL = """
_base_ = {base!r}
model = dict(
    backbone=dict(
        backbone=dict(
            arch=dict({arch!r}, _delete_=True), init_cfg=None
        )
    ),
    head=dict(in_channels={width}),
)
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
small = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(small, batch_size=2)
val_dataloader = dict(small, batch_size=2)
"""


def write_vtab(root: Path) -> None:
    folder = root / 'kitti'
    folder.mkdir(parents=True)
    for label in range(4):
        image = np.full((20, 30, 3), 60 * label, np.uint8)
        cv2.imwrite(str(folder / f'{label}.png'), image)
    for name in ('train800val200', 'test'):
        lines = [f'{label}.png {label}' for label in range(4)]
        (folder / f'{name}.txt').write_text('\n'.join(lines))


def write_fgvc(root: Path, classes: int) -> None:
    folder = root / 'OxfordFlowers'
    (folder / 'images').mkdir(parents=True)
    cv2.imwrite(str(folder / 'images/1.png'), np.full((20, 30, 3), 9, 'u1'))
    # A class needs an image; one file serves all of them.
    content = json.dumps({f'{"./" * i}1.png': i for i in range(classes)})
    for split in ('trainval', 'test'):
        (folder / f'{split}.json').write_text(content)


@pytest.mark.parametrize(('leaf', 'arch', 'width'), LEAVES)
def test_a_leaf_trains_and_validates(leaf, arch, width, tmp_path, monkeypatch):
    if leaf.endswith('vtab1k'):
        write_vtab(tmp_path / 'data')
        monkeypatch.setenv('VTAB_TASK', 'kitti')
        monkeypatch.setenv('VTAB_ROOT', str(tmp_path / 'data'))
        steps = 2
    else:
        write_fgvc(tmp_path / 'data', 102)
        monkeypatch.setenv('FGVC_NAME', 'OxfordFlowers')
        monkeypatch.setenv('FGVC_ROOT', str(tmp_path / 'data'))
        steps = 51
    base = str(ROOT / f'configs/rlrr/{leaf}.py')
    config = tmp_path / 'small.py'
    config.write_text(SMALL.format(base=base, arch=arch, width=width))
    monkeypatch.chdir(tmp_path)
    train = str(ROOT / 'tools/train.py')
    monkeypatch.setattr(sys, 'argv', [train, str(config)])
    runpy.run_path(train, run_name='__main__')
    # The leaf's own folder holds the task.
    (log,) = tmp_path.glob(f'work_dirs/{leaf}/*/*/*.log')
    text = log.read_text()
    losses = re.findall(r'\(train\).* loss: (\S+)', text)
    assert len(losses) == steps
    assert all(math.isfinite(float(loss)) for loss in losses)
    assert re.search(r'\(val\).*accuracy/top1: \d', text)
