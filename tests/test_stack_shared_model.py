"""Stock models whose stacks share weights, against models with all weights."""

import copy
import io
import pickle
import re
from unittest import mock

import pytest
import torch
from detrs import CLASSES, DETRS, DIMS, LAYERS, detector, samples
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import load_state_dict
from swins import VIT_ARGS, VIT_DIMS, VIT_LAYERS, images, stir
from test_switches import assert_equal
from torch import nn

from mmlowrank.checkpoint.merge import largest_difference, merge
from mmlowrank.models import stack_shared_model
from mmlowrank.nn import LORSLinear
from mmlowrank.tuners import checkpoint_parts, parameter_roles

RANK = 2
DECODER = {'decoder.layers': dict(rank=RANK)}
BUT_POSITIONS = {
    'decoder.layers': dict(rank=RANK, linears=r'(?!cross_attn\.qpos_proj$).*')
}
STACKS_OF = {'ConditionalDETR': BUT_POSITIONS}
# Conditional DETR projects positions, which are float32 in any case.
DTYPES = {'ConditionalDETR': torch.float32}
CLOSE = {
    torch.float64: dict(rtol=1e-9, atol=1e-11),
    torch.float32: dict(rtol=1e-4, atol=1e-5),
}
# Name of a site of a DINO's decoder -> its weight in a layer: rows, columns.
_POINTS = 2 * 3 * 4
SITES = {
    'self_attn_attn_in_proj': ('self_attn.attn.in_proj_', 3 * DIMS, DIMS),
    'self_attn_attn_out_proj': ('self_attn.attn.out_proj.', DIMS, DIMS),
    'cross_attn_sampling_offsets': (
        *('cross_attn.sampling_offsets.', 2 * _POINTS, DIMS),
    ),
    'cross_attn_attention_weights': (
        *('cross_attn.attention_weights.', _POINTS, DIMS),
    ),
    'cross_attn_value_proj': ('cross_attn.value_proj.', DIMS, DIMS),
    'cross_attn_output_proj': ('cross_attn.output_proj.', DIMS, DIMS),
    'ffn_layers_0_0': ('ffn.layers.0.0.', 24, DIMS),
    'ffn_layers_1': ('ffn.layers.1.', DIMS, 24),
}


def outputs(model, x=None):
    x = images() if x is None else x
    like = next(model.parameters())
    with torch.no_grad():
        found = model(x.to(like), samples(len(x)), mode='tensor')
    return {str(i): t for i, t in enumerate(found)}


def gradients(model):
    """In float64, which DINO's denoising takes from the default."""
    model.train()
    data = samples(2)
    for sample in data:
        boxes = sample.gt_instances.bboxes.double()
        sample.gt_instances.bboxes = boxes
    torch.manual_seed(5)  # what DINO adds to boxes
    torch.set_default_dtype(torch.float64)
    try:
        losses = model(images().double(), data, mode='loss')
    finally:
        torch.set_default_dtype(torch.float32)
    sum(v for name, v in losses.items() if 'loss' in name).backward()
    return {
        n: p.grad.clone()
        for n, p in model.named_parameters()
        if p.grad is not None
    }


def shared(kind='DINO', stacks=None):
    model = detector(kind, stacks or STACKS_OF.get(kind, DECODER))
    stir(model)
    return model.to(DTYPES.get(kind, torch.float64)).eval()


def materialised(model, prefix='decoder.', stack='layers', sites=SITES):
    """Return a stock DINO with W = W_shared + (B A)^T in each layer."""
    state = model.state_dict()
    for name, (path, _, _) in sites.items():
        own = f'{prefix}lors.{stack}.{name}'
        weight = state.pop(f'{own}.weight')
        for i in range(LAYERS):
            b, a = (state.pop(f'{own}.{f}.{i}') for f in 'BA')
            at = f'{prefix}{stack}.{i}.{path}'
            state[f'{at}weight'] = weight + torch.einsum('ir,ro->oi', b, a)
            state[f'{at}bias'] = state.pop(f'{own}.biases.{i}')
    plain = detector('DINO').double().eval()
    plain.load_state_dict(state)
    return plain


def test_is_the_stock_class_and_has_as_many_parameters_as_the_formula():
    model, plain = detector('DINO', DECODER), detector('DINO')
    assert type(model) is type(plain)
    stock = sum(p.numel() for p in plain.decoder.parameters())
    saved = sum(
        (LAYERS - 1) * n * m - LAYERS * RANK * (n + m)
        for _, n, m in SITES.values()
    )
    decoder = [*model.decoder.parameters()]
    assert sum(p.numel() for p in decoder) == stock - saved
    assert len([*model.named_parameters(remove_duplicate=False)]) == len(
        [*model.parameters()]
    )
    assert [*model.decoder.lors.layers] == [*SITES]
    assert all(p.requires_grad for p in model.parameters())
    # The neck's and all others are stock.
    names = plain.state_dict().keys()
    assert {n for n in model.state_dict() if n not in names} == {
        f'decoder.lors.layers.{n}'
        for n in model.decoder.lors.layers.state_dict()
    }


def test_computes_what_the_stock_model_of_its_weights_does():
    model = shared()
    plain = materialised(model)
    assert_equal(outputs(model), outputs(plain), rtol=1e-9, atol=1e-11)
    # It is not the shared weight alone.
    alone = copy.deepcopy(model)
    for stack in alone.decoder.lors.layers.values():
        for a in stack.A:
            a.data.zero_()
    ours, without = outputs(model), outputs(alone)
    assert (ours['0'] - without['0']).abs().max() > 1e-3


def test_gradients_are_those_of_the_stock_model_by_the_chain_rule():
    """With G_i at W_i: sum G_i at the shared, G^T A^T at B, B^T G^T at A."""
    model = shared()
    ours, theirs = gradients(model), gradients(materialised(model))
    expected = {n: theirs[n] for n in ours if '.lors.' not in n}
    for name, (path, _, _) in SITES.items():
        own = f'decoder.lors.layers.{name}'
        stack = model.get_submodule(own)
        at = [f'decoder.layers.{i}.{path}' for i in range(LAYERS)]
        weights = [theirs[f'{place}weight'] for place in at]
        expected[f'{own}.weight'] = sum(weights)
        for i, g in enumerate(weights):
            expected[f'{own}.B.{i}'] = g.t() @ stack.A[i].t()
            expected[f'{own}.A.{i}'] = stack.B[i].t() @ g.t()
            expected[f'{own}.biases.{i}'] = theirs[f'{at[i]}bias']
    assert_equal(ours, expected, rtol=1e-7, atol=1e-11)
    for name, value in ours.items():
        if '.lors.' in name:
            assert value.any(), name


@pytest.mark.parametrize('initialised', [False, True])
@pytest.mark.parametrize('kind', DETRS)
def test_starts_as_a_stock_model_with_the_weight_of_the_first_layer(
    kind, initialised
):
    """Of the same random numbers, as the stock code draws them."""
    model, plain = (
        detector(kind, stacks)
        for stacks in (STACKS_OF.get(kind, DECODER), None)
    )
    if initialised:
        for one in (model, plain):
            torch.manual_seed(7)
            one.init_weights()
    state = plain.state_dict()
    linear = [
        (path, f'decoder.layers.{i}.{path}{module.joint}')
        for i, layer in enumerate(model.decoder.layers)
        for path, module in layer.named_modules()
        if isinstance(module, LORSLinear)
    ]
    assert len({path for path, _ in linear}) == len(linear) / LAYERS
    for _, name in linear:
        first = re.sub(r'layers\.\d', 'layers.0', name, count=1)
        state[f'{name}weight'] = state[f'{first}weight']
    plain.load_state_dict(state)
    dtype = DTYPES.get(kind, torch.float64)
    for one in (model, plain):
        one.to(dtype).eval()
    assert_equal(outputs(model), outputs(plain), **CLOSE[dtype])
    for name, value in model.decoder.lors.named_parameters():
        if '.A.' in name:
            assert not value.any()
        elif '.B.' in name or name.endswith('weight'):
            # Those that a DETR sets to zero, by stock code too.
            zero = 'offsets' in name or 'attention_weights' in name
            assert value.any() != (zero and name.endswith('weight'))


def test_special_biases_reach_their_layers():
    """Sampling points on a star, a bias of -2 in the first box branch only."""
    stacks = {'bbox_head.reg_branches': dict(rank=1), **DECODER}
    model = detector('DeformableDETR', stacks, with_box_refine=True)
    model.init_weights()
    stack = model.decoder.lors.layers.cross_attn_sampling_offsets
    for bias in stack.biases:
        # Four points, one after the other further out.
        star = bias.view(2, 3, 4, 2)
        factors = torch.arange(1, 5)[None, None, :, None]
        assert torch.equal(star, star[:, :, :1] * factors)
        assert (star[:, :, 0].abs().amax(-1) == 1).all()
    sizes = [
        b[2:].tolist() for b in model.bbox_head.lors.reg_branches['4'].biases
    ]
    assert sizes == [[-2.0, -2.0], *[[0.0, 0.0]] * (LAYERS - 1)]


def test_init_weights_leaves_what_the_stock_code_does():
    """A second call does nothing to a model that stock code leaves alone."""
    cfg = dict(
        VIT_ARGS,
        type='mmlowrank.StackSharedModel',
        model='VisionTransformer',
        stacks={'layers': dict(rank=RANK)},
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        vit = MODELS.build(cfg)
    vit.init_weights()
    stir(vit)
    before = copy.deepcopy(vit.lors.state_dict())
    vit.init_weights()
    after = vit.lors.state_dict()
    assert_equal(after, before, rtol=0, atol=0)


def test_a_backbone_inside_a_classifier():
    """mmengine's list of parameters comes from the classifier."""
    drawn = dict(type='Normal', layer='Linear', std=0.5)
    vit = dict(VIT_ARGS, type='VisionTransformer', init_cfg=drawn)
    cfg = dict(
        type='ImageClassifier',
        backbone=vit,
        head=dict(
            type='VisionTransformerClsHead',
            num_classes=3,
            in_channels=VIT_DIMS,
        ),
    )
    stacks = {'layers': dict(rank=RANK, linears='ffn.*')}
    ours = dict(
        vit,
        type='mmlowrank.StackSharedModel',
        model='VisionTransformer',
        stacks=stacks,
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        stock, model = (
            MODELS.build(dict(cfg, backbone=b)) for b in (vit, ours)
        )
    for one in (stock, model):
        torch.manual_seed(0)
        one.init_weights()
    assert [*model.backbone.lors['layers']] == [
        *('ffn_layers_0_0', 'ffn_layers_1')
    ]
    first = stock.backbone.layers[0].ffn.layers
    for stack, linear in zip(
        model.backbone.lors['layers'].values(),
        (first[0][0], first[1]),
        strict=True,
    ):
        assert torch.equal(stack.weight, linear.weight)
        assert torch.equal(stack.biases[0], linear.bias)
        assert not any(a.any() for a in stack.A)
    assert isinstance(model.backbone.layers[0].attn.qkv, nn.Linear)
    stir(model)
    for one in (stock, model):
        one.double().eval()
    stock.load_state_dict(merge(model).state_dict)
    x = images().double()
    assert largest_difference(model, stock, x) < 1e-9


STACKS = {
    'heads': {
        'bbox_head.reg_branches': dict(rank=1),
        'bbox_head.cls_branches': dict(rank=[1, 2, 1, 1]),
    },
    'no attention': {'decoder.layers': dict(rank=1, linears='ffn.*')},
    'shared bias': {'decoder.layers': dict(rank=1, bias='shared')},
    'all': {
        'decoder.layers': dict(rank=1, terms=[1, 2, 3], init='paper'),
        'bbox_head.reg_branches': dict(rank=1, linears='[24]'),
    },
}


@pytest.mark.parametrize('stacks', STACKS)
def test_merged_models_compute_the_same(stacks):
    model = shared(stacks=STACKS[stacks])
    merged = merge(model)
    assert merged.stack and not (merged.tuners or merged.lors)
    plain = detector('DINO').double().eval()
    plain.load_state_dict(merged.state_dict, strict=True)
    assert largest_difference(model, plain, images().double()) < 1e-9
    assert_equal(outputs(model), outputs(plain), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('kind', ['DETR', 'DeformableDETR', 'ConditionalDETR'])
def test_other_detectors_merge(kind):
    model = shared(kind)
    dtype = DTYPES.get(kind, torch.float64)
    plain = detector(kind).to(dtype).eval()
    plain.load_state_dict(merge(model).state_dict, strict=True)
    assert_equal(outputs(model), outputs(plain), **CLOSE[dtype])


def test_a_wrong_merge_is_noticed():
    """What is compared is behind the decoder, not the backbone alone."""
    model = shared()
    plain = detector('DINO').double().eval()
    plain.load_state_dict(merge(model).state_dict, strict=True)
    plain.decoder.layers[1].ffn.layers[1].weight.data *= 1.1
    assert largest_difference(model, plain, images().double()) > 1e-4


def test_a_whole_config_is_the_same():
    ours = detector('DINO', DECODER)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        other = MODELS.build(
            dict(
                type='mmlowrank.StackSharedModel',
                model=dict(DETRS['DINO'], type='DINO'),
                stacks=DECODER,
            )
        )
    assert repr(ours) == repr(other)
    ours, other = (m.decoder.state_dict() for m in (ours, other))
    assert_equal(ours, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_are_equal_and_independent(copied):
    model = shared()
    twin = copied(model)
    for layer in twin.decoder.layers:
        stacks = twin.decoder.lors.layers
        attention = layer.self_attn.attn
        assert attention.in_proj.stack is stacks['self_attn_attn_in_proj']
        assert attention.forward.args == (attention,)
    before = outputs(model)
    assert_equal(outputs(twin), before, rtol=0, atol=0)
    twin.decoder.lors.layers['self_attn_attn_in_proj'].weight.data *= 2
    assert_equal(outputs(model), before, rtol=0, atol=0)
    assert not torch.equal(outputs(twin)['0'], before['0'])
    start = copy.deepcopy(model.state_dict())
    twin.init_weights()
    assert_equal(model.state_dict(), start, rtol=0, atol=0)


def test_state_dict_goes_round():
    model, other = shared(), detector('DINO', DECODER).double().eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file), strict=True)
    assert_equal(outputs(model), outputs(other), rtol=0, atol=0)


def test_attention_shows_no_weight_after_its_forward():
    """Nothing that was formed stays, and is saved or trained."""
    model = shared()
    attention = model.decoder.layers[0].self_attn.attn
    before = {*vars(attention)}, [*attention.state_dict()]
    outputs(model)
    assert before == ({*vars(attention)}, [])
    assert attention.in_proj_weight is None


@pytest.mark.parametrize('load', [load_state_dict, nn.Module.load_state_dict])
def test_weights_of_stock_layers_are_left_out_aloud(load):
    model, plain = detector('DINO', DECODER), detector('DINO')
    start = copy.deepcopy(model.state_dict())
    stir(plain)
    with mock.patch.object(stack_shared_model, 'print_log') as log:
        load(model, plain.state_dict(), strict=False)
    ((text,), _) = log.call_args
    assert f'{len(SITES) * LAYERS} weights of stock layers' in text
    assert 'decoder.layers.0.self_attn.attn.in_proj_weight' in text
    state, stock = model.state_dict(), plain.state_dict()
    for name, value in start.items():
        expected = value if '.lors.' in name else stock[name]
        assert torch.equal(state[name], expected), name
    with pytest.raises(RuntimeError, match=r'decoder\.lors\.layers'):
        model.load_state_dict(plain.state_dict(), strict=True)


def test_a_stock_checkpoint_of_init_cfg_is_left_out_too(tmp_path):
    plain = detector('DeformableDETR')
    stir(plain)
    file = tmp_path / 'stock.pth'
    torch.save(plain.state_dict(), file)
    cfg = dict(type='Pretrained', checkpoint=str(file))
    model = detector('DeformableDETR', DECODER, init_cfg=cfg)
    model.init_weights()
    stack = model.decoder.lors.layers['ffn_layers_1']
    stock = plain.decoder.layers[0].ffn.layers[1].weight
    assert (stack.weight - stock).abs().max() > 0.1
    name = 'encoder.layers.0.norms.0.bias'
    assert torch.equal(model.state_dict()[name], plain.state_dict()[name])


@pytest.mark.parametrize(
    ('stacks', 'error', 'sentence'),
    [
        ({}, ValueError, 'stacks is empty'),
        ({'decoder': {}}, ValueError, "'decoder' is no nn.ModuleList but"),
        ({'layers': {}}, ValueError, 'It has these: .*decoder.layers'),
        (
            {'decoder.layers': dict(linears='fc')},
            ValueError,
            'no linear layer.*self_attn.attn.in_proj',
        ),
        (
            {'decoder.layers': dict(rank=[1])},
            ValueError,
            r'each stage \(3 stages',
        ),
        ({'encoder.layers': {}}, ValueError, 'has 1 layer'),
        (
            {'decoder.layers': dict(bias='none')},
            ValueError,
            "has a bias in the stock model.*bias='shared'",
        ),
        (
            {'backbone.stages': dict(linears='blocks.*')},
            ValueError,
            'different sizes',
        ),
    ],
    ids=str,
)
def test_wrong_stacks_are_refused(stacks, error, sentence):
    with pytest.raises(error, match=f'(?s){sentence}'):
        detector('DINO', stacks)


def test_layers_that_differ_are_refused():
    with pytest.raises(ValueError, match=r'layer 1 .* other linear layers'):
        detector('ConditionalDETR', DECODER)


def test_layers_that_are_one_and_the_same_are_refused():
    """A Deformable DETR without box refinement has one head for all."""
    with pytest.raises(ValueError, match='share_pred_layer=False'):
        detector('DeformableDETR', {'bbox_head.cls_branches': {}})


def test_frozen_layers_are_refused():
    backbone = dict(DETRS['DINO']['backbone'], type='mmlowrank.SwinFixed')
    with pytest.raises(ValueError, match=r'stages.0.blocks.*is frozen'):
        detector('DINO', {'backbone.stages.0.blocks': {}}, backbone=backbone)


def test_maps_without_a_bias_get_none():
    cfg = dict(
        VIT_ARGS,
        type='mmlowrank.StackSharedModel',
        model='VisionTransformer',
        stacks={'layers': dict(rank=1, bias='shared')},
        qkv_bias=False,
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        vit = MODELS.build(cfg)
    stacks = vit.lors['layers']
    assert stacks['attn_qkv'].bias is stacks['attn_qkv'].biases is None
    assert stacks['attn_proj'].bias is not None
    vit.init_weights()
    assert 'layers.0.attn.qkv.bias' not in merge(vit).state_dict


class Own(nn.Linear):
    """Computes what no other does."""

    def forward(self, x):
        return super().forward(x) ** 2


@MODELS.register_module()
class Tower(nn.Module):
    """A stack with a layer of a kind of its own, or shared by hand."""

    def __init__(self, tied=False):
        super().__init__()
        one = nn.Linear if tied else Own
        self.layers = nn.ModuleList(
            nn.Sequential(one(4, 4), nn.Linear(4, 4)) for _ in range(2)
        )
        if tied:
            self.again = self.layers[1][0]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def tower(tied=False, **options):
    return MODELS.build(
        dict(
            type='mmlowrank.StackSharedModel',
            model=dict(type='Tower', tied=tied),
            stacks={'layers': dict(rank=1, **options)},
        )
    )


def test_linear_layers_of_their_own_kind_or_tied_are_refused():
    with pytest.raises(TypeError, match=r"layers.0.0 is a Own.*linears=r'"):
        tower()
    with pytest.raises(ValueError, match='shares its weight with another'):
        tower(tied=True)
    # As the errors say.
    for tied in (False, True):
        model = tower(tied, linears=r'(?!0$).*')
        assert [*model.lors['layers']] == ['1']
        assert model(torch.ones(1, 4)).shape == (1, 4)
        assert not hasattr(model, 'init_weights')


def test_roles():
    model = detector('DINO', DECODER)
    roles = parameter_roles(model)
    for name, parameter in model.decoder.lors.named_parameters():
        expected = 'bias' if 'biases' in name else 'weight'
        assert roles[id(parameter)] == expected, name


def test_activation_checkpointing():
    model = shared()
    plain = gradients(model)
    model.zero_grad()
    checkpoint_parts(model, [f'decoder.layers.{i}' for i in range(LAYERS)])
    assert_equal(gradients(model), plain, rtol=1e-9, atol=1e-13)


def test_half_precision():
    model = shared().float()
    exact = outputs(model)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        near = outputs(model)
    assert near['0'].shape == exact['0'].shape == (LAYERS, 2, 8, CLASSES)
    assert all(t.isfinite().all() for t in near.values())


def test_layers_are_as_many_as_the_vit_has():
    cfg = dict(
        VIT_ARGS,
        type='mmlowrank.StackSharedModel',
        model='VisionTransformer',
        stacks={'layers': dict(rank=[*range(1, VIT_LAYERS + 1)])},
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        vit = MODELS.build(cfg)
    assert [b.shape[1] for b in vit.lors['layers']['attn_qkv'].B] == [1, 2, 3]
