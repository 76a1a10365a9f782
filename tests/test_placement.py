"""Where a method acts: sites in a block, layers of the trunk, rank a stage."""

import json

import pytest
from hosts import build as build_host
from swins import DEPTHS, VIT, build

from mmlowrank import load_peft, save_peft
from mmlowrank.checkpoint.adapter_file import AdapterError
from mmlowrank.checkpoint.plain_values import plain

BLOCKS = sum(DEPTHS)
METHODS = {
    'Adapter': dict(mid_channels=5),
    'AdaptFormer': dict(mid_channels=5),
    'LoRA': dict(rank=4),
    'LoRand': dict(rank=4),
    'RLRR': {},
    'SSF': {},
}
every = pytest.mark.parametrize('method', METHODS)


def tuned(method, **arguments):
    kind = f'mmlowrank.Swin{method}'
    return build('mmdet', kind, **METHODS.get(method, {}) | arguments)


def numbered(name):
    """Return a key's block, counted through all stages; None outside."""
    _, kind, first, *rest = name.split('.')
    if kind == 'blocks':
        return int(first)
    if kind == 'stages':
        return sum(DEPTHS[: int(first)]) + int(rest[0])
    return None


@every
def test_layers_leave_the_other_keys_as_they_are(method):
    whole = tuned(method).tuner.added()
    some = tuned(method, layers=[1, -2]).tuner.added()
    kept = [name for name in whole if numbered(name) in (None, 1, BLOCKS - 2)]
    assert list(some) == kept
    assert {name: some[name].shape for name in some} == {
        name: whole[name].shape for name in kept
    }


@pytest.mark.parametrize('method', [*METHODS, 'Partial'])
@pytest.mark.parametrize(
    'layers, sentence',
    [
        ((0, BLOCKS), f'has {BLOCKS}, but the backbone has {BLOCKS} blocks'),
        ((-BLOCKS - 1,), f'has {-BLOCKS - 1}, but'),
        ((0.5,), 'has 0.5, but'),
        (2, 'a list of indices of blocks, or None for all, got 2'),
        ((), 'a list of indices'),
        ('all', "a list of indices .* got 'all'"),
    ],
    ids=str,
)
def test_layers_that_there_are_not(method, layers, sentence):
    with pytest.raises(ValueError, match=f'{method} layers.*{sentence}'):
        tuned(method, layers=layers)


@pytest.mark.parametrize(
    'method', ['Adapter', 'AdaptFormer', 'LoRA', 'LoRand', 'RLRR']
)
@pytest.mark.parametrize('sites', ['attn', 'q', (), ('mlp',)], ids=str)
def test_sites_that_there_are_not(method, sites):
    with pytest.raises(ValueError, match=f'{method} sites must be .* some of'):
        tuned(method, sites=sites)


@pytest.mark.parametrize('method', ['LoRA', 'LoRand'])
@pytest.mark.parametrize('rank', [[2, 4, 8], [2, 4, 8, 0], 2.5, '8888', []])
def test_a_rank_says_how_many_stages_there_are(method, rank):
    with pytest.raises(ValueError, match=f'{method} rank must .*4 stages'):
        tuned(method, rank=rank)
    with pytest.raises(ValueError, match=f'{method} rank must .*1 stage '):
        build(VIT, method, rank=[4, 4])


def test_a_site_that_the_chosen_layers_have_not():
    with pytest.raises(ValueError, match=r'layers=\(1,\), and none of these'):
        build_host(
            'resnet', dict(type='LoRA', sites=('downsample',), layers=(1,))
        )


def test_peft_takes_layers_and_one_rank(tmp_path):
    some = tuned('LoRA', layers=(0, -1))
    save_peft(some, tmp_path)
    text = json.loads((tmp_path / 'adapter_config.json').read_text())
    assert text['target_modules'] == [
        'stages.0.blocks.0.attn.w_msa.qkv',
        'stages.3.blocks.0.attn.w_msa.qkv',
    ]
    load_peft(some, tmp_path)
    with pytest.raises(AdapterError, match='qkv of all blocks that the tuner'):
        load_peft(tuned('LoRA'), tmp_path)
    with pytest.raises(AdapterError, match=r'rank=\[2, 2, 4, 4\], and .* one'):
        save_peft(tuned('LoRA', rank=[2, 2, 4, 4]), tmp_path)
    save_peft(tuned('LoRA', rank=[4] * 4), tmp_path)


def test_a_range_of_layers_is_kept_in_files():
    tuner = tuned('LoRA', layers=range(2)).tuner
    assert plain(dict(tuner.arguments))['layers'] == [0, 1]
