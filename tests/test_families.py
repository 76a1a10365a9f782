"""DESIGN's promises on every family: each tuner keeps them or is refused."""

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from family_table import PAGE, PLACE, table
from hosts import HOSTS, build, images
from mmengine.registry import MODELS, DefaultScope
from swins import check_autocast, loss, stir

import mmlowrank
from mmlowrank.families import family_of
from mmlowrank.registry import FAMILIES, TUNERS
from mmlowrank.tuners import CannotMerge

# Of each tuner, with what starts as the stock model and has no dropout.
METHODS = {
    'Full': {},
    'Fixed': {},
    'BitFit': {},
    'NormTuning': {},
    'Partial': {},
    'Adapter': dict(mid_channels=5, hidden_dropout=0.0),
    'AdaptFormer': dict(mid_channels=5, hidden_dropout=0.0),
    'LoRand': dict(branches=2, rank=3),
    'Mona': dict(mid_channels=4, dropout=0.0, init='identity'),
    'CoLin': dict(mid_channels=5, rank=3, init='identity'),
    'LoRA': dict(rank=4),
    'RLRR': dict(init='identity'),
    'SSF': dict(init='identity'),
    'ARC': dict(mid_channels=4),
    'FacT': dict(rank=4),
    'VPT': dict(tokens=2),
    'E3VA': dict(rank=3),
}
MERGE = {
    *('Full', 'Fixed', 'BitFit', 'NormTuning', 'Partial'),
    *('LoRA', 'RLRR', 'SSF', 'ARC', 'FacT'),
}
# The matrix of the families: what is not defined, and the part that lacks.
PYRAMID = dict(FacT='one width', VPT='tokens besides')
ROW = dict.fromkeys(('Mona', 'CoLin'), 'place in the image')
RESNET = {
    **PYRAMID,
    **dict.fromkeys(('Adapter', 'LoRand', 'E3VA'), 'residual branches'),
    **dict.fromkeys(('AdaptFormer', 'Mona', 'CoLin'), 'residual branches'),
    'ARC': 'a branch begins with',
}
REFUSED = {
    'dinov2': dict(ROW, FacT='a multiple'),
    'clip': ROW,
    'deit3': ROW,
    'swin-v2': PYRAMID,
    'beit': dict(ROW, VPT='tokens besides'),
    'eva02': dict(ROW, VPT='tokens besides'),
    'sam': dict(
        VPT='tokens besides',
        E3VA='outputs',
        **dict.fromkeys(('AdaptFormer', 'Mona', 'CoLin'), 'beginning and end'),
    ),
    'mmseg-vit': ROW,
    'mmseg-beit': dict(ROW, VPT='tokens besides'),
    'mmseg-mae': dict(ROW, VPT='tokens besides'),
    'mit': PYRAMID,
    'pvt': PYRAMID,
    'mscan': {
        **PYRAMID,
        'E3VA': 'outputs',
        **dict.fromkeys(('AdaptFormer', 'Mona', 'CoLin'), 'beginning'),
    },
    'convnext': PYRAMID,
    'convnext, one output': {**PYRAMID, 'E3VA': 'outputs'},
    'convnext, 1 x 1': PYRAMID,
    'resnet': RESNET,
    'resnet, one output': RESNET,
    'timm, maps': ROW,
    'timm, dinov3': dict(ROW, VPT='tokens besides'),
    'timm, eva02': dict(ROW, VPT='tokens besides', FacT='a multiple'),
}
# Their shifts have no place in a stock query-key-value projection.
UNMERGEABLE = {('timm, dinov3', name) for name in ('RLRR', 'SSF', 'ARC')}
# A second host of a family differs in what these look at.
SECOND = {
    *('clip', 'mmseg-beit', 'mmseg-mae', 'pvt', 'convnext, 1 x 1'),
    'convnext, one output',
    *('resnet, one output', 'timm, dinov3', 'timm, eva02'),
}
LOOKING = (
    *('NormTuning', 'LoRand', 'LoRA', 'RLRR', 'SSF', 'ARC', 'Mona'),
    'E3VA',
)
CASES = [
    (host, name)
    for host in HOSTS
    for name in (LOOKING if host in SECOND else METHODS)
    if name not in REFUSED[host]
]
every = pytest.mark.parametrize('host, name', CASES)


def tuned(host, name, **kwargs):
    return build(host, dict(type=name, **METHODS[name]), **kwargs)


def evaluated(model, x):
    """Return the outputs in evaluation mode, without gradients."""
    model.eval()
    with torch.no_grad():
        return list(model(x))


def like(backbone, host):
    """Return the stock backbone, frozen as the tuned one is.

    PyTorch chooses kernels by what wants a gradient, without one too.
    """
    stock = build(host)
    for name, parameter in stock.named_parameters():
        wanted = backbone.get_parameter(name).requires_grad
        parameter.requires_grad_(wanted)
    return stock


def test_the_table_is_complete():
    assert METHODS.keys() == TUNERS.module_dict.keys()
    assert REFUSED.keys() == HOSTS.keys()
    kinds = {host: type(family_of(build(host))).__name__ for host in HOSTS}
    # The Swins and the plain ViT are in test_tuner_contract.py.
    assert {*kinds.values()} == FAMILIES.module_dict.keys() - {'Swin'}
    # Every family has a host that every method is tried on.
    assert {kinds[host] for host in HOSTS if host not in SECOND} == {
        *kinds.values()
    }


@pytest.mark.parametrize(
    'host, name, part',
    [
        (h, name, part)
        for h, row in REFUSED.items()
        for name, part in row.items()
    ],
)
def test_what_is_not_defined_is_refused(host, name, part):
    sentence = rf'{name} cannot be attached to \w+: .*{part}'
    with pytest.raises(TypeError, match=sentence) as error:
        tuned(host, name)
    if part == 'a multiple':
        return
    # What it names instead does fit.
    fit = str(error.value).rpartition(': ')[2].split(', ')
    assert set(fit) == METHODS.keys() - {
        n for n, why in REFUSED[host].items() if why != 'a multiple'
    }


@every
def test_stock_stays_stock(host, name):
    backbone, stock = tuned(host, name), build(host)
    assert type(backbone) is type(stock)
    kept = {
        key: value
        for key, value in backbone.state_dict().items()
        if not key.startswith('tuner.')
    }
    assert list(kept) == list(stock.state_dict())
    for key, value in stock.state_dict().items():
        assert torch.equal(kept[key], value), key
    # And again after the stock weights were initialised or loaded.
    backbone.init_weights()
    assert not backbone.load_state_dict(
        stock.state_dict(), strict=False
    ).unexpected_keys
    backbone.tuner.check()
    owned, frozen = backbone.tuner.owned(), backbone.tuner.frozen()
    assert not owned.keys() & frozen.keys()
    if name != 'VPT':  # whose prompts are seen at once
        assert all(
            map(
                torch.equal,
                evaluated(backbone, images(host)),
                evaluated(like(backbone, host), images(host)),
            )
        )


@every
def test_owned_train_copies_follow_and_what_merges_is_equal(host, name):
    backbone, x = tuned(host, name), images(host)
    stir(backbone)
    backbone.train()
    value = loss(backbone, x)
    if name != 'Fixed':
        value.backward()
    for key, parameter in backbone.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, key
        else:
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 0, key
    before = evaluated(backbone, x)
    for twin in (
        copy.deepcopy(backbone),
        pickle.loads(pickle.dumps(backbone)),
    ):
        assert twin.tuner.backbone is twin
        assert all(map(torch.equal, before, evaluated(twin, x)))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(1.5)
        assert not all(map(torch.equal, before, evaluated(twin, x)))
        assert all(map(torch.equal, before, evaluated(backbone, x)))
    if name not in MERGE or (host, name) in UNMERGEABLE:
        with pytest.raises(CannotMerge, match='because'):
            backbone.tuner.merge()
        return
    merged, plain = backbone.tuner.merge(), build(host)
    assert list(merged) == list(plain.state_dict())
    # The stock Swin V2 drops its tables of coordinates when it loads.
    plain.load_state_dict(merged, strict=host != 'swin-v2')
    for one, other in zip(before, evaluated(plain, x), strict=True):
        # One rounding of a weight in float32.
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    'options',
    [{}, dict(structure='stacked'), dict(adapter='mona', mid_channels=4)],
    ids=str,
)
@pytest.mark.parametrize(
    'host', [host for host in HOSTS if 'E3VA' not in REFUSED[host]]
)
def test_nothing_of_the_trunk_is_saved_for_backward(host, options):
    """As on a Swin: what branches return, and what is made of it, are."""
    if 'adapter' in options and 'Mona' in REFUSED[host]:
        with pytest.raises(TypeError, match='place in the image'):
            build(host, dict(type='E3VA', **options))
        return
    backbone = build(host, dict(type='E3VA', rank=3, **options))
    trunk = family_of(backbone)
    taps, inside = [], []
    for block in trunk.blocks:
        for branch in block.branches.values():
            branch.output.read(taps.append)
        ends = {branch.output.module for branch in block.branches.values()}
        for module in block.module.modules():
            if module not in ends and not list(module.children()):
                module.register_forward_hook(
                    lambda m, args, out: inside.append(out)
                )
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        value = loss(backbone, images(host))
    assert value.requires_grad
    places = {t.untyped_storage().data_ptr() for t in saved}
    allowed = {t.untyped_storage().data_ptr() for t in taps}
    assert inside
    # Stacked adapters read sums.
    assert bool(allowed & places) == ('structure' not in options)
    for tensor in inside:
        for part in tensor if isinstance(tensor, tuple) else (tensor,):
            assert not part.requires_grad
            place = part.untyped_storage().data_ptr()
            assert place not in places - allowed


@pytest.mark.parametrize(
    'host, name',
    [
        (host, name)
        for host in ('beit', 'mit', 'convnext', 'timm, dinov3')
        for name in ('LoRA', 'RLRR', 'SSF', 'ARC', 'Mona', 'CoLin', 'E3VA')
        if name not in REFUSED[host]
    ],
)
def test_autocast_keeps_gradients_in_fp32(host, name):
    backbone = tuned(host, name)
    stir(backbone)
    check_autocast(backbone, images(host))


@pytest.mark.parametrize('name', ['LoRand', 'RLRR', 'E3VA'])
@pytest.mark.parametrize('host', ['dinov2', 'convnext'])
@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_detectors_and_segmentors_have_them_too(scope, host, name):
    cfg = dict(HOSTS[host][1])
    cfg['type'] = f'mmpretrain.{cfg["type"]}'
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MODELS.build(
            dict(
                type='mmlowrank.TunedBackbone',
                backbone=cfg,
                tuner=dict(type=name, **METHODS[name]),
            )
        )
    stock = evaluated(like(backbone, host), images(host))
    assert all(map(torch.equal, stock, evaluated(backbone, images(host))))


def test_the_page_of_backbones_has_the_table():
    """``python tests/family_table.py`` writes it."""
    assert PLACE.search(PAGE.read_text())[0] == table()


def test_nobody_else_names_what_stock_backbones_are_made_of():
    """Converters do, whose subject is the layout of foreign files."""
    package = Path(mmlowrank.__file__).parent
    attribute = re.compile(
        r'\.(w_msa|out_drop|dropout_layer|downsample|patch_embed|norm[123]|'
        r'ln[12]|gamma_?[12]|ffn|drop_path|num_extra_tokens|out_indices|qkv|'
        r'layers\[|stages\[\w+\]\.blocks|mlp|fc[12]|pointwise_conv)\b'
    )
    for room in ('tuners', 'models', 'engine', 'nn'):
        for path in (package / room).rglob('*.py'):
            if 'adamixer' not in path.parts:
                code = re.sub(
                    r'""".*?"""|#.*', '', path.read_text(), flags=re.S
                )
                assert not attribute.search(code), path
