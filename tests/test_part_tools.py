"""Tools on models whose parts are shared or tuned: merging, counting."""

import copy
import re

import pytest
import torch
from detrs import DETRS
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from swins import stir
from test_stack_shared_model import DECODER, outputs
from test_switches import assert_equal

from mmlowrank.nn import LORSLinear
from mmlowrank.tuners import tuners_of


def config_of(folder, kind='StackSharedModel', **model):
    """Write a config and a checkpoint of a model off its start."""
    config, checkpoint = folder / 'config.py', folder / 'epoch_1.pth'
    found = copy.deepcopy(DETRS['DINO'])
    # The tool builds with images that are not of a loader.
    found['data_preprocessor'] = dict(type='DetDataPreprocessor')
    found.update(type=f'mmlowrank.{kind}', model='DINO', **model)
    Config(dict(default_scope='mmdet', model=found)).dump(config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        trained = MODELS.build(Config.fromfile(config).model)
    trained.level_embed.data.zero_()
    stir(trained)
    torch.save(dict(state_dict=trained.state_dict()), checkpoint)
    return config, checkpoint, trained.eval()


MERGE = 'model_converters/merge.py'
TUNED = dict(DETRS['DINO']['backbone'], type='mmlowrank.SwinLoRA', rank=2)


@pytest.mark.parametrize(
    'model',
    [
        dict(),
        dict(backbone=TUNED),
        dict(stacks={'backbone.stages.0.blocks': {}}),
    ],
    ids=['decoder', 'decoder and tuned backbone', 'backbone'],
)
def test_the_tool_writes_a_stock_detector(model, tmp_path, tool):
    config, checkpoint, trained = config_of(
        tmp_path, **{'stacks': DECODER, **model}
    )
    out = tmp_path / 'merged'
    said = tool(MERGE, config, checkpoint, out, '--size', 64)
    assert "type = 'DINO'" in said
    assert 'no longer the arguments "model" and "stacks"' in said
    cfg = Config.fromfile(out / 'config.py')
    assert 'mmlowrank' not in cfg.pretty_text
    assert not {'stacks', 'model'} & cfg.model.keys()
    plain = MODELS.build(cfg.model).eval()
    assert not any(isinstance(m, LORSLinear) for m in plain.modules())
    state = torch.load(out / 'checkpoint.pth', weights_only=True)
    plain.load_state_dict(state['state_dict'], strict=True)
    assert_equal(outputs(trained), outputs(plain), rtol=1e-3, atol=1e-4)


def test_the_tool_merges_tuners_of_several_parts(tmp_path, tool):
    lora = dict(type='LoRA', rank=2, sites=('.*',))
    config, checkpoint, trained = config_of(
        tmp_path,
        'TunedModel',
        tuners=dict(backbone=dict(type='LoRA', rank=2), decoder=lora),
    )
    for tuner in tuners_of(trained).values():
        assert any(p.abs().sum() for p in tuner.parameters())
    out = tmp_path / 'merged'
    said = tool(MERGE, config, checkpoint, out, '--size', 64)
    assert '"model" and "tuners"' in said
    cfg = Config.fromfile(out / 'config.py')
    assert 'mmlowrank' not in cfg.pretty_text
    plain = MODELS.build(cfg.model).eval()
    state = torch.load(out / 'checkpoint.pth', weights_only=True)
    plain.load_state_dict(state['state_dict'], strict=True)
    assert_equal(outputs(trained), outputs(plain), rtol=1e-3, atol=1e-4)


def test_parts_are_counted(tmp_path, tool):
    config, _, trained = config_of(tmp_path, stacks=DECODER)
    printed = tool('count_params.py', config, '--parts')
    decoder = sum(p.numel() for p in trained.decoder.parameters())
    assert re.search(rf'    decoder +{decoder:,}\n', printed)
    assert 'decoder' not in tool('count_params.py', config)
