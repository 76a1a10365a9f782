"""Detectors with one or the other operators, in a process of its own.

python tests/ops_worker.py FOLDER [--hide] [--steps N]

FOLDER has the ``.pth`` file that an installation puts into site-packages.
Imports mmdet before anything of ours, as a user's own script does, and prints
the losses of each detector before and after steps of training as JSON.
"""

import argparse
import importlib
import json
import site
import sys
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Blind(PathFinder):
    """Finds all but mmcv's compiled module, as if there were none."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == 'mmcv._ext':
            return None
        return super().find_spec(name, path, target)


def with_mini_swin(path: str) -> dict:
    """Return the model of a config, its backbone a small LoRand Swin."""
    from mmengine.config import Config

    quickstart = ROOT / 'configs' / 'quickstart'
    name = 'mask-rcnn_swin-mini_lorand-b4r8_800it_digits.py'
    model = Config.fromfile(ROOT / 'configs' / path).model
    backbone = Config.fromfile(quickstart / name).model.backbone
    model.backbone = dict(backbone, init_cfg=None)
    return model


def retinanet() -> dict:
    model = with_mini_swin('_base_/models/retinanet_swin-l.py')
    widths = [model.backbone['embed_dims'] * 2**i for i in range(1, 4)]
    model.backbone['out_indices'] = (1, 2, 3)
    model.neck.update(in_channels=widths, start_level=0)
    # All boxes, of which none is certain at the start of training.
    model.test_cfg.score_thr = 0
    return model


def detectors() -> dict:
    import adamixers

    leaf = 'quickstart/{}.py'
    return {
        'Mask R-CNN': with_mini_swin(
            leaf.format('mask-rcnn_swin-mini_lorand-b4r8_800it_digits')
        ),
        'Cascade Mask R-CNN': with_mini_swin(
            leaf.format('cascade-mask-rcnn_swin-mini_lorand-b2r8_400it_digits')
        ),
        'Faster R-CNN': with_mini_swin(
            leaf.format('faster-rcnn_swin-mini_lorand-b2r8_400it_digits-voc')
        ),
        'RetinaNet': retinanet(),
        'AdaMixer + LORS': adamixers.config(**adamixers.LORS),
    }


def train(cfg: dict, steps: int) -> list[dict[str, float]]:
    """Return the losses of each step, and how far predictions come."""
    import numpy as np
    import torch
    from mmdet.testing import demo_mm_inputs
    from mmdet.utils import register_all_modules
    from mmengine.registry import MODELS, DefaultScope

    register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    np.random.seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg).train()
        model.init_weights()
    masks = getattr(model, 'with_mask', False)
    data = demo_mm_inputs(
        2, [[3, 96, 96]] * 2, num_items=[3, 0], num_classes=4, with_mask=masks
    )
    rows = []
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-4)
    for _ in range(steps):
        batch = model.data_preprocessor(data, True)
        losses, values = model.parse_losses(model(**batch, mode='loss'))
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        row = {k: v.item() for k, v in values.items()}
        row['gradient'] = sum(p.grad.double().norm().item() for p in trained)
        rows.append(row)
    model.eval()
    with torch.no_grad():
        found = model.test_step(data)
    rows.append(
        {
            f'{key} {i}': sample.pred_instances[key].double().sum().item()
            for i, sample in enumerate(found)
            for key in ('bboxes', 'scores')
        }
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('folder')
    parser.add_argument('--hide', action='store_true')
    parser.add_argument('--steps', type=int, default=2)
    args = parser.parse_args()
    if args.hide:
        sys.meta_path[sys.meta_path.index(PathFinder)] = Blind
    site.addsitedir(args.folder)
    early = 'mmlowrank' in sys.modules
    importlib.import_module('mmdet.models')
    rows = {name: train(cfg, args.steps) for name, cfg in detectors().items()}
    ext = importlib.import_module('mmcv._ext')
    print(json.dumps(dict(early=early, origin=ext.__spec__.origin, rows=rows)))


if __name__ == '__main__':
    main()
