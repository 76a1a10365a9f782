"""Configs and docs of detectors and segmentors that are tuned as a whole."""

import argparse
from pathlib import Path

import pages
import pytest
from mmengine.config import Config

from mmlowrank.analysis.counting import build_on_meta
from mmlowrank.engine import tuned_config
from mmlowrank.tuners import tuners_of

LEAVES = sorted(
    (Path(__file__).resolve().parents[1] / 'configs/whole_model').glob('*.py')
)


@pytest.mark.parametrize('leaf', LEAVES, ids=lambda path: path.stem)
def test_leaves_train_what_their_tuners_add(leaf):
    cfg = Config.fromfile(leaf)
    model = build_on_meta(cfg)
    tuners = tuners_of(model)
    assert len(tuners) == 3
    for path, tuner in tuners.items():
        assert tuner.source.endswith('.pth')
        assert tuner.part_of[1] == path.removesuffix('tuner')
        assert all(t.is_meta for t in tuner.parameters())
        for name, parameter in tuner.backbone.named_parameters():
            assert parameter.requires_grad == name.startswith('tuner.')
    wrapper = cfg.optim_wrapper
    assert wrapper.constructor == 'mmlowrank.TunerOptimWrapperConstructor'
    keys = wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    assert 'backbone' not in keys


def test_the_dino_of_voc_reads_voc():
    cfg = Config.fromfile(LEAVES[0])
    kinds = [d.type for d in cfg.train_dataloader.dataset.datasets]
    assert kinds == ['VOCDataset'] * 2
    assert cfg.test_evaluator.type == cfg.val_evaluator.type == 'VOCMetric'
    assert 'COCO' not in str(cfg.test_dataloader)


def test_the_page_is_what_a_config_says(tmp_path):
    """The config of docs/whole_model.md, and its commands."""
    blocks = pages.blocks('whole_model.md')
    text = next(b.text for b in blocks if 'TunedModel' in b.text)
    path = tmp_path / 'leaf.py'
    path.write_text(text)
    model = build_on_meta(Config.fromfile(path))
    assert [t.title for t in tuners_of(model).values()] == ['LoRA'] * 3
    assert type(model).__name__ == 'DINO'
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    tuned_config.add_arguments(parser)
    found = []
    for words in pages.commands(blocks):
        args = parser.parse_args(words[2:])
        cfg = tuned_config.read(args.config, args.cfg_options, args.tuner)
        found.append({*tuners_of(build_on_meta(cfg))})
    assert found == [
        {'backbone.tuner'},
        {'backbone.tuner', 'encoder.tuner', 'decoder.tuner'},
    ]


def test_the_folder_prints_what_is_counted(tool):
    folder = LEAVES[0].parent
    names = [f'configs/whole_model/{leaf.name}' for leaf in LEAVES]
    text = (folder / 'README.md').read_text()
    assert f'count_params.py {" ".join(names)}\n' in text
    printed = tool('count_params.py', *names)
    assert printed[printed.index(names[0]) :] in text
