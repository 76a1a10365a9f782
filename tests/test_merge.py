"""tools/model_converters/merge.py: a stock checkpoint, or a reason."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from swins import ARGS, VIT_ARGS, images, stir
from torch import nn

from mmlowrank import save_adapter
from mmlowrank.checkpoint import merge
from mmlowrank.models.tuned_backbone import stock_config

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / 'tools/model_converters/merge.py'
CLASSES = ('zero', 'one', 'two')


def classifier(backbone, in_channels):
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='mmpretrain.GlobalAveragePooling')
        if in_channels == 128
        else None,
        head=dict(
            type='LinearClsHead', num_classes=3, in_channels=in_channels
        ),
    )


def vit(tuner):
    backbone = dict(VIT_ARGS, type='VisionTransformer')
    return classifier(
        dict(
            type='mmlowrank.TunedBackbone',
            backbone=dict(backbone, init_cfg=dict(type='Pretrained')),
            tuner=tuner,
        ),
        16,
    )


def swin(name, **kwargs):
    backbone = dict(ARGS['mmpretrain'], type=f'mmlowrank.{name}', **kwargs)
    return classifier(backbone, 128)


MODELS_MERGED = {
    'ViT, RLRR': vit(dict(type='RLRR')),
    'ViT, FacT': vit(dict(type='FacT', rank=4)),
    'ViT, LORS': classifier(
        dict(
            VIT_ARGS,
            type='mmlowrank.StackSharedViT',
            lors_attn=dict(rank=2, terms=[1, 1, 3]),
            lors_ffn=dict(rank=[3, 2, 1]),
        ),
        16,
    ),
    'Swin, RLRR': swin('SwinRLRR'),
    'Swin, LoRA': swin('SwinLoRA', rank=4),
    'Swin, BitFit': swin('SwinBitFit'),
}


def built(model):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(Config(dict(model=model)).model)


def written(folder, model):
    """Write a config and a checkpoint of a model off its start."""
    torch.manual_seed(0)
    config, checkpoint = folder / 'config.py', folder / 'epoch_1.pth'
    Config(dict(default_scope='mmpretrain', model=model)).dump(config)
    tuned = built(model)
    stir(tuned.backbone)
    meta = dict(
        dataset_meta=dict(classes=CLASSES, odd=np.arange(2)),
        cfg='a text that names mmlowrank',
    )
    torch.save(dict(meta=meta, state_dict=tuned.state_dict()), checkpoint)
    return config, checkpoint, tuned


def run(*words):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, words)],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize('name', ['ViT, RLRR', 'Swin, LoRA', 'ViT, LORS'])
def test_the_tool_writes_a_checkpoint_that_needs_no_mmlowrank(
    tmp_path, monkeypatch, capsys, name
):
    config, checkpoint, tuned = written(tmp_path, MODELS_MERGED[name])
    out = tmp_path / 'merged.pth'
    monkeypatch.setattr(
        sys, 'argv', [*map(str, (TOOL, config, checkpoint, out))]
    )
    runpy.run_path(str(TOOL), run_name='__main__')
    output = capsys.readouterr().out
    assert 'outputs differ by at most' in output
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'config.py',
        'epoch_1.pth',
        'merged.pth',
    ]
    # In a process that cannot import mmlowrank.
    stock = dict(tuned_config(config), backbone=stock_backbone(config))
    Config(dict(model=stock)).dump(tmp_path / 'stock.py')
    tuned.eval()
    torch.save((images(), tuned(images())), tmp_path / 'expected.pth')
    code, output = run(
        '-c',
        'import sys; sys.modules["mmlowrank"] = None\n'
        'import torch\n'
        'from mmengine.config import Config\n'
        'from mmpretrain.registry import MODELS\n'
        f'cfg = Config.fromfile({str(tmp_path / "stock.py")!r})\n'
        'model = MODELS.build(dict(cfg.model, _scope_="mmpretrain"))\n'
        f'saved = torch.load({str(out)!r}, weights_only=True)\n'
        'model.load_state_dict(saved["state_dict"], strict=True)\n'
        f'x, y = torch.load({str(tmp_path / "expected.pth")!r})\n'
        'torch.testing.assert_close(model.eval()(x), y, '
        'atol=1e-5, rtol=1e-4)\n'
        'print(saved["meta"])\n',
    )
    assert code == 0, output
    assert f"'classes': {CLASSES}" in output


INFERENCE = """
import sys
sys.modules['mmlowrank'] = None
from mmpretrain.apis import ImageClassificationInferencer
found = ImageClassificationInferencer(
    'config.py', 'checkpoint.pth', 'cpu')(sys.argv[1])
print('scores', [round(float(x), 4) for x in found[0]['pred_scores']])
"""


def test_a_folder_needs_no_mmlowrank(
    tmp_path, digit_scenes, digit_swin, monkeypatch, capsys
):
    """Checkpoint and config, in a process that cannot import it."""
    from mmpretrain.apis import ImageClassificationInferencer

    monkeypatch.setenv('DIGIT_SCENES', str(digit_scenes))
    monkeypatch.setenv('DIGIT_SWIN', str(digit_swin))
    leaf = 'configs/quickstart/swin-mini_lora-r8_30e_digits-turned.py'
    cfg = Config.fromfile(ROOT / leaf)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    model.init_weights()
    stir(model.backbone)
    adapter, out = tmp_path / 'a.safetensors', tmp_path / 'out'
    save_adapter(model, adapter)
    picture = next((digit_scenes / 'digits' / 'val').rglob('*.*'))
    words = [TOOL, ROOT / leaf, adapter, out, '--size', 40]
    words += ['--image', picture]
    monkeypatch.setattr(sys, 'argv', [*map(str, words)])
    runpy.run_path(str(TOOL), run_name='__main__')
    said = capsys.readouterr().out
    assert 'run on a 40 x 40 image: outputs differ by at most' in said
    assert f'{out}/config.py: for tests and inferencers' in said
    assert sorted(p.name for p in out.iterdir()) == [
        'checkpoint.pth',
        'config.py',
    ]
    assert 'mmlowrank' not in (out / 'config.py').read_text()
    monkeypatch.chdir(out)
    code, output = run('-c', INFERENCE, picture)
    assert code == 0, output
    (expected,) = ImageClassificationInferencer(
        str(ROOT / leaf), str(adapter), 'cpu'
    )(str(picture))
    scores = [round(float(x), 4) for x in expected['pred_scores']]
    assert f'scores {scores}' in output


def tuned_config(config):
    return Config.fromfile(config).model


def stock_backbone(config):
    return stock_config(tuned_config(config).backbone)


@pytest.mark.parametrize('model', MODELS_MERGED.values(), ids=MODELS_MERGED)
def test_a_merged_file_is_checked_before_it_has_its_name(tmp_path, model):
    config, _, tuned = written(tmp_path, model)
    out = tmp_path / 'merged.pth'
    stock = built(dict(model, backbone=stock_backbone(config)))
    state_dict = merge.merge(tuned).state_dict
    assert state_dict.keys() == stock.state_dict().keys()
    difference = merge.save_checked(
        state_dict, {}, out, tuned, stock, images()
    )
    assert 0 <= difference < merge.TOLERANCE
    out.unlink()
    # A wrong merge is noticed, and leaves no file.
    name = next(n for n in state_dict if n.endswith('qkv.weight'))
    state_dict[name] = state_dict[name] * 1.01
    with pytest.raises(RuntimeError, match=r'merged\.pth was not written'):
        merge.save_checked(state_dict, {}, out, tuned, stock, images())
    state_dict[name] = state_dict[name] * float('nan')
    with pytest.raises(RuntimeError, match=r'merged\.pth was not written'):
        merge.save_checked(state_dict, {}, out, tuned, stock, images())
    assert not list(tmp_path.glob('merged*'))


def test_head_and_statistics_come_along():
    """Everything of the model is in the file, buffers too."""
    torch.manual_seed(0)
    model = built(MODELS_MERGED['Swin, RLRR'])
    model.norm = nn.BatchNorm1d(2)
    model.norm.running_mean.fill_(3)
    state_dict = merge.merge(model).state_dict
    assert state_dict['norm.running_mean'].tolist() == [3, 3]
    assert any('relative_position_index' in name for name in state_dict)
    assert torch.equal(state_dict['head.fc.weight'], model.head.fc.weight)
    assert not any('tuner' in name for name in state_dict)


def refused(monkeypatch, *words):
    """Run the tool in this process and return what it dies with."""
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOOL), run_name='__main__')
    return str(stopped.value)


@pytest.mark.parametrize(
    'model, sentence',
    [
        (
            vit(dict(type='VPT', tokens=3)),
            'VPT cannot be merged into a stock checkpoint, because',
        ),
        (
            swin('SwinLoRand', rank=4),
            'LoRand cannot be merged into a stock checkpoint, because',
        ),
        (
            classifier(dict(VIT_ARGS, type='VisionTransformer'), 16),
            'ImageClassifier has no tuner',
        ),
    ],
    ids=['VPT', 'LoRand', 'stock'],
)
def test_what_cannot_be_merged_is_refused(
    tmp_path, monkeypatch, model, sentence
):
    config, checkpoint = tmp_path / 'config.py', tmp_path / 'epoch_1.pth'
    Config(dict(default_scope='mmpretrain', model=model)).dump(config)
    torch.save(built(model).state_dict(), checkpoint)
    out = tmp_path / 'merged.pth'
    assert sentence in refused(monkeypatch, config, checkpoint, out)
    assert not out.exists()


def test_a_checkpoint_of_another_config_is_refused(tmp_path, monkeypatch):
    config, checkpoint, _ = written(tmp_path, MODELS_MERGED['ViT, RLRR'])
    text = refused(
        monkeypatch,
        config,
        checkpoint,
        tmp_path / 'merged.pth',
        '--cfg-options',
        'model.backbone.tuner.qkv_groups=1',
    )
    assert 'epoch_1.pth is not a checkpoint of' in text
    assert 'size mismatch' in text


def test_paths_are_checked_first(tmp_path, monkeypatch):
    file, none = tmp_path / 'a.py', tmp_path / 'no' / 'b.pth'
    file.touch()
    for words, sentence in (
        ((none, file, none), f'There is no file {none}'),
        ((file, none, none), f'There is no file {none}'),
        ((file, file, file), f'{file} exists'),
        ((file, file, none), f'There is no folder {none.parent}'),
    ):
        assert sentence in refused(monkeypatch, *words)


def test_other_backbones_have_no_stock_config():
    with pytest.raises(ValueError, match="'ResNet' is not a tuned backbone"):
        stock_config(dict(type='ResNet'))
