"""Checkpoints of the authors' repositories, and merged ones."""

import runpy
import sys
from pathlib import Path

import adamixers
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from swins import ARGS, stir

from mmlowrank.checkpoint.adamixer import to_mmlowrank, to_original
from mmlowrank.checkpoint.merge import largest_difference
from mmlowrank.nn.mixing_matrices import CastOnce

ROOT = Path(__file__).resolve().parents[1]
CONVERT = ROOT / 'tools/model_converters/adamixer.py'
MERGE = ROOT / 'tools/model_converters/merge.py'
D, CF, STAGES, CLASSES, QUERIES = 16, 12, 3, 4, 7
G, P, OUTS, FFN, HEADS = 3, 4, 5, 24, 2
C = CF // G
TERMS, RANK_A, RANK_T = (1, 2, 3), 3, 2
both = pytest.mark.parametrize('lors', [False, True])


def original(lors):
    """Return a random state dict with the keys and shapes of the authors.

    Written down from the tables of the specification, not from our code.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}

    def put(key, *shape):
        state[key] = torch.randn(*shape, generator=generator).double()

    def linear(key, out, into):
        put(f'{key}.weight', out, into)
        put(f'{key}.bias', out)

    def norm(key, width):
        put(f'{key}.weight', width)
        put(f'{key}.bias', width)

    put('backbone.conv1.weight', 4, 3, 7, 7)
    for level, width in enumerate((4, 8, 16, 32)):
        put(f'neck.lateral_convs.{level}.conv.weight', CF, width, 1, 1)
        put(f'neck.lateral_convs.{level}.conv.bias', CF)
    norm('neck.gn_out', CF)
    put('rpn_head.init_proposal_bboxes.weight', QUERIES, 4)
    put('rpn_head.init_content_features.weight', QUERIES, D)
    rows = G * (C * C + OUTS * P)
    for i in range(STAGES):
        head = f'roi_head.bbox_head.{i}'
        put(f'{head}.iof_tau', HEADS)
        put(f'{head}.attention.attn.in_proj_weight', 3 * D, D)
        put(f'{head}.attention.attn.in_proj_bias', 3 * D)
        linear(f'{head}.attention.attn.out_proj', D, D)
        linear(f'{head}.ffn.layers.0.0', FFN, D)
        linear(f'{head}.ffn.layers.1', D, FFN)
        for name in ('attention_norm', 'ffn_norm', 'cls_fcs.1', 'reg_fcs.1'):
            norm(f'{head}.{name}', D)
        for name in ('cls_fcs.0', 'reg_fcs.0'):
            linear(f'{head}.{name}', D, D)
        linear(f'{head}.fc_cls', CLASSES, D)
        linear(f'{head}.fc_reg', 4, D)
        sampling = f'{head}.sampling' if lors else f'{head}.sampling_n_mixing'
        linear(f'{sampling}.sampling_offset_generator.0', G * P * 3, D)
        if not lors:
            mixing = f'{sampling}.adaptive_mixing'
            linear(f'{mixing}.parameter_generator.0', rows, D)
            linear(f'{mixing}.out_proj', D, G * OUTS * C)
            norm(f'{sampling}.norm', D)
            continue
        mixing, k, r = 'roi_head.adaptive_mixing', TERMS[i], RANK_A
        linear(
            f'{mixing}.private_parameter_generator.{i}', 2 * G * k * r * r, D
        )
        put(f'{mixing}.ml_parameters.{i}', G * k, C, r)
        put(f'{mixing}.mr_parameters.{i}', G * k, r, C)
        put(f'{mixing}.sl_parameters.{i}', G * k, OUTS, r)
        put(f'{mixing}.sr_parameters.{i}', G * k, r, P)
        put(f'{mixing}.out_weight_add_A.{i}', RANK_T, G * OUTS * C)
        put(f'{mixing}.out_weight_add_B.{i}', D, RANK_T)
        put(f'{mixing}.out_weight_bias.{i}', D)
        norm(f'{mixing}.out_norm.{i}', D)
    if lors:
        linear(f'{mixing}.common_parameter_generator', rows, D)
        put(f'{mixing}.base_out_proj.weight', D, G * OUTS * C)
    return state


def layer_norm(x):
    centred = x - x.mean((-2, -1), keepdim=True)
    return (
        centred / (centred.square().mean((-2, -1), keepdim=True) + 1e-5).sqrt()
    )


def mixed_by_the_authors(state, lors, stage, x, query):
    """Return what their layout mixes: spatial matrices are (out, in) points.

    Args:
        x: (groups, in_points, C), samples of a query.
        query: (D,).
    """
    head = f'roi_head.bbox_head.{stage}.sampling_n_mixing.adaptive_mixing.'
    mixing = 'roi_head.adaptive_mixing.'

    def linear(key):
        return state[f'{key}.weight'] @ query + state[f'{key}.bias']

    if lors:
        own = linear(mixing + 'common_parameter_generator').view(G, -1)
        e = linear(f'{mixing}private_parameter_generator.{stage}')
        e = e.view(2, G, TERMS[stage], RANK_A, RANK_A)
        ml, mr, sl, sr = (
            state[f'{mixing}{name}_parameters.{stage}']
            for name in ('ml', 'mr', 'sl', 'sr')
        )
    else:
        own = linear(head + 'parameter_generator.0').view(G, -1)
    flat = []
    for g in range(G):
        m, s = own[g, : C * C].view(C, C), own[g, C * C :].view(OUTS, P)
        for k in range(TERMS[stage] if lors else 0):
            at = g * TERMS[stage] + k
            m = m + ml[at] @ e[0, g, k] @ mr[at]
            s = s + sl[at] @ e[1, g, k] @ sr[at]
        y = layer_norm(x[g] @ m).relu()
        flat.append(layer_norm(s @ y).relu().flatten())
    flat = torch.cat(flat)
    if not lors:
        weight, bias = (
            state[f'{head}out_proj.{n}'] for n in ('weight', 'bias')
        )
        return weight @ flat + bias
    low_rank = (
        state[f'{mixing}out_weight_add_B.{stage}']
        @ state[f'{mixing}out_weight_add_A.{stage}']
    )
    weight = state[mixing + 'base_out_proj.weight'] + low_rank
    return weight @ flat + state[f'{mixing}out_weight_bias.{stage}']


def model_for(lors):
    options = adamixers.LORS if lors else {}
    return adamixers.build(**options).double()


@both
def test_their_checkpoints_load_and_compute_the_same(lors):
    state = original(lors)
    converted = to_mmlowrank(state)
    model = model_for(lors)
    own = {
        key: value
        for key, value in model.state_dict().items()
        if not key.startswith('backbone.')
    }
    assert converted.pop('backbone.conv1.weight').shape == (4, 3, 7, 7)
    assert {k: v.shape for k, v in converted.items()} == {
        k: v.shape for k, v in own.items()
    }
    model.load_state_dict(converted, strict=False)
    torch.manual_seed(0)
    x = torch.randn(G, 2, P, C, dtype=torch.float64)
    query = torch.randn(2, D, dtype=torch.float64)
    for stage in range(STAGES):
        ours = model.decoder.mixing(x, query, stage, CastOnce())
        theirs = torch.stack(
            [
                mixed_by_the_authors(state, lors, stage, x[:, n], query[n])
                for n in range(2)
            ]
        )
        # float64 in another order, behind two normalisations.
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@both
def test_there_and_back_is_the_same_to_the_bit(lors):
    state = original(lors)
    back = to_original(to_mmlowrank(state))
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(back[key], value), key
    own = model_for(lors).state_dict()
    again = to_mmlowrank(to_original(own))
    assert again.keys() == own.keys()
    assert all(torch.equal(again[key], own[key]) for key in own)


@both
def test_unknown_and_missing_keys_are_refused(lors):
    state = original(lors)
    state['roi_head.mask_head.weight'] = torch.zeros(1)
    with pytest.raises(ValueError, match=r'1 keys are unknown.*mask_head'):
        to_mmlowrank(state)
    state = original(lors)
    del state['roi_head.bbox_head.1.fc_cls.bias']
    with pytest.raises(ValueError, match=r'missing.*head\.1\.fc_cls\.bias'):
        to_mmlowrank(state)
    with pytest.raises(ValueError, match='not a detector of the AdaMixer'):
        to_mmlowrank({'backbone.conv1.weight': torch.zeros(1)})


@pytest.mark.parametrize(
    'options',
    [
        dict(lors_adaptive=adamixers.LORS['lors_adaptive']),
        dict(lors_static=adamixers.LORS['lors_static']),
        dict(adamixers.LORS, lors_static=dict(rank=2, bias='shared')),
        dict(adamixers.LORS, generator_bias=False),
    ],
)
def test_what_the_authors_cannot_hold_is_refused(options):
    with pytest.raises(ValueError, match='in a form that the authors have'):
        to_original(adamixers.build(**options).state_dict())


@pytest.fixture
def run(monkeypatch, capsys):
    """Call a tool in this process, which has the imports behind it."""

    def call(tool, *words, fails=False):
        monkeypatch.setattr(sys, 'argv', [str(tool), *map(str, words)])
        if fails:
            with pytest.raises(SystemExit) as stopped:
                runpy.run_path(str(tool), run_name='__main__')
            return str(stopped.value)
        runpy.run_path(str(tool), run_name='__main__')
        return capsys.readouterr().out

    return call


def test_the_converter_writes_files_both_ways(run, tmp_path):
    first, second, third = (tmp_path / f'{name}.pth' for name in 'abc')
    state = original(lors=True)
    torch.save(dict(state_dict=state, meta=dict(CLASSES=('cat',))), first)
    run(CONVERT, first, second)
    ours = torch.load(second, weights_only=True)
    assert ours['meta'] == dict(dataset_meta=dict(classes=('cat',)))
    run(CONVERT, second, third, '--to-original')
    back = torch.load(third, weights_only=True)
    assert back['meta'] == dict(CLASSES=('cat',))
    assert all(torch.equal(back['state_dict'][k], state[k]) for k in state)
    words = (third, second, '--to-original')
    assert 'b.pth exists; remove it' in run(CONVERT, *words, fails=True)
    words = (third, tmp_path / 'd.pth', '--to-original')
    assert 'are unknown' in run(CONVERT, *words, fails=True)
    assert not (tmp_path / 'd.pth').exists()


@pytest.mark.parametrize('tuner', [None, 'LoRA', 'LoRand'])
def test_a_merged_checkpoint_is_plain_adamixer(run, tmp_path, tuner):
    """A tuned backbone is merged with LORS, or stays and says why."""
    torch.manual_seed(0)
    model_cfg = adamixers.config(**adamixers.LORS)
    if tuner:
        model_cfg['backbone'] = dict(
            ARGS['mmdet'], type=f'mmlowrank.Swin{tuner}', rank=2
        )
        model_cfg['neck']['in_channels'] = [16, 32, 64, 128]
    cfg = Config(dict(default_scope='mmdet', model=model_cfg))
    cfg.dump(tmp_path / 'lors.py')
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    if tuner:
        stir(model.backbone)
    for parameter in model.decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    meta = dict(dataset_meta=dict(classes=('cat',)))
    torch.save(
        dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'lors.pth'
    )
    merged = tmp_path / 'merged.pth'
    size = ('--size', 64)
    text = run(
        MERGE, tmp_path / 'lors.py', tmp_path / 'lors.pth', merged, *size
    )
    assert ('LoRand cannot be merged' in text) == (tuner == 'LoRand')
    assert ("type='SwinTransformer'" in text) == (tuner == 'LoRA')
    # What it prints is what changes in the config.
    printed = text[text.index('model now has') :].partition('\n')[2]
    printed = printed.partition('The backbone stays')[0]
    for name, part in Config.fromstring(printed, '.py').items():
        cfg.model[name] = part
    plain_file = tmp_path / 'plain.py'
    cfg.dump(plain_file)
    plain = MODELS.build(cfg.model)
    assert not plain.decoder.mixing.is_lors
    checkpoint = torch.load(merged, weights_only=True)
    assert checkpoint['meta'] == meta
    plain.load_state_dict(checkpoint['state_dict'])
    model.decoder.mixing.merge_at_eval = False
    assert largest_difference(model, plain, torch.randn(1, 3, 64, 64)) < 1e-4

    again = run(MERGE, plain_file, merged, tmp_path / 'x.pth', fails=True)
    assert ('no tuner and no LORS' in again) == (tuner != 'LoRand')
    words = (MERGE, tmp_path / 'lors.py', merged, tmp_path / 'x.pth')
    assert 'is not a checkpoint of' in run(*words, fails=True)
