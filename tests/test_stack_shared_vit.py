"""A ViT whose blocks share weights, against the stock ViT of equal weights."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.activation_checkpointing import (
    turn_on_activation_checkpointing,
)
from swins import VIT_ARGS, VIT_DIMS, VIT_LAYERS, images, loss, stir
from test_switches import (
    assert_equal,
    assert_same_outputs,
    in_eval,
    run_onnx,
)
from torch import nn

from mmlowrank.checkpoint.merge import merge
from mmlowrank.engine import TunerDistributedDataParallel
from mmlowrank.nn import LORSLinear
from mmlowrank.tuners import checkpoint_parts, parameter_roles

# Name of a site -> where it is in a block, columns and rows.
SITES = {
    'qkv': ('attn.qkv', VIT_DIMS, 3 * VIT_DIMS),
    'proj': ('attn.proj', VIT_DIMS, VIT_DIMS),
    'fc1': ('ffn.layers.0.0', VIT_DIMS, 4 * VIT_DIMS),
    'fc2': ('ffn.layers.1', 4 * VIT_DIMS, VIT_DIMS),
}
RANK, ATTENTION, FFN = 2, [1, 1, 3], [3, 2, 1]
TERMS = {name: FFN if name[0] == 'f' else ATTENTION for name in SITES}
BOTH = dict(
    lors_attn=dict(rank=RANK, terms=ATTENTION),
    lors_ffn=dict(rank=RANK, terms=FFN),
)


def build(**kwargs):
    """Build in the scope of mmdet: the ViT is mmpretrain's all the same."""
    torch.manual_seed(0)
    cfg = dict(VIT_ARGS, type='mmlowrank.StackSharedViT', **kwargs)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def stirred(**kwargs):
    """Build, and move everything off its start."""
    vit = build(**(kwargs or BOTH))
    stir(vit)
    return vit


def stock(**kwargs):
    kind = 'mmpretrain.VisionTransformer'
    return MODELS.build(dict(VIT_ARGS, type=kind, **kwargs))


def materialised(vit):
    """Return a stock ViT with W = W_shared + sum_k B_k A_k in each block."""
    plain, state = stock().to(vit.pos_embed), vit.state_dict()
    for name, (path, _, _) in SITES.items():
        shared = state.pop(f'lors.{name}.weight')
        for i in range(VIT_LAYERS):
            residual = torch.zeros_like(shared).t()
            left, right = (state.pop(f'lors.{name}.{f}.{i}') for f in 'BA')
            for k in range(TERMS[name][i]):
                term = slice(k * RANK, (k + 1) * RANK)
                residual = residual + left[:, term] @ right[term]
            state[f'layers.{i}.{path}.weight'] = shared + residual.t()
            bias = state.pop(f'lors.{name}.biases.{i}')
            state[f'layers.{i}.{path}.bias'] = bias
    plain.load_state_dict(state)
    return plain


def gradients(vit, x=None):
    """Return name -> gradient of the loss; every parameter has one."""
    vit.zero_grad()
    loss(vit, images().to(vit.pos_embed) if x is None else x).backward()
    return {n: p.grad.clone() for n, p in vit.named_parameters()}


def test_is_the_stock_class_and_has_as_many_parameters_as_the_formula():
    vit = build(**BOTH)
    assert type(vit) is type(stock())
    plain = sum(p.numel() for p in stock().parameters())
    saved = sum(
        (VIT_LAYERS - 1) * n * m - sum(TERMS[site]) * RANK * (n + m)
        for site, (_, n, m) in SITES.items()
    )
    assert sum(p.numel() for p in vit.parameters()) == plain - saved
    # Each is found once, however many blocks use it.
    assert len([*vit.named_parameters(remove_duplicate=False)]) == len(
        [*vit.parameters()]
    )
    assert all(p.requires_grad for p in vit.parameters())


@pytest.mark.parametrize('training', [True, False])
def test_computes_what_the_stock_vit_of_its_weights_does(training):
    vit = stirred().double()
    plain = materialised(vit)
    for model in (vit, plain):
        model.train(training)
    x = images().double()
    (ours,), (theirs,) = vit(x), plain(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    # It is not the shared weight alone.
    shared = copy.deepcopy(vit)
    for stack in shared.lors.values():
        for a in stack.A:
            a.data.zero_()
    assert (shared(x)[0] - ours).abs().max() > 1e-3


def test_gradients_are_those_of_the_stock_vit_by_the_chain_rule():
    """With G_i at W_i: sum G_i at the shared, G^T A^T at B, B^T G^T at A."""
    vit = stirred().double()
    ours, theirs = gradients(vit), gradients(materialised(vit))
    expected = {n: theirs[n] for n in ours if not n.startswith('lors.')}
    for name, (path, _, _) in SITES.items():
        site, stack = f'lors.{name}', vit.lors[name]
        at = [theirs[f'layers.{i}.{path}.weight'] for i in range(VIT_LAYERS)]
        expected[f'{site}.weight'] = sum(at)
        for i, g in enumerate(at):
            expected[f'{site}.B.{i}'] = g.t() @ stack.A[i].t()
            expected[f'{site}.A.{i}'] = stack.B[i].t() @ g.t()
            bias = theirs[f'layers.{i}.{path}.bias']
            expected[f'{site}.biases.{i}'] = bias
    assert_equal(ours, expected, rtol=1e-9, atol=1e-14)
    for name, value in ours.items():
        assert value.any(), name


def test_start():
    """Before and after what mmengine and mmpretrain draw anew."""
    drawn = [dict(type='TruncNormal', layer='Linear', std=0.02)]
    vit = build(**BOTH, init_cfg=drawn)
    before = copy.deepcopy(vit.lors.state_dict())
    vit.init_weights()
    assert_equal(vit.lors.state_dict(), before, rtol=0, atol=0)
    assert vit.pos_embed.any()
    for name, (_, columns, rows) in SITES.items():
        stack = vit.lors[name]
        assert stack.weight.shape == (rows, columns)
        bound = columns**-0.5
        assert 0.9 * bound < stack.weight.abs().max() <= bound
        for a, b, bias in zip(stack.A, stack.B, stack.biases, strict=True):
            # Kaiming-uniform of PyTorch; a = 0.
            assert 0.8 * 6**0.5 * bound < b.abs().max() <= 6**0.5 * bound
            assert not a.any() and not bias.any()


@pytest.mark.parametrize(
    ('options', 'stacks'),
    [
        (dict(lors_attn=BOTH['lors_attn']), ['qkv', 'proj']),
        (dict(lors_ffn=BOTH['lors_ffn']), ['fc1', 'fc2']),
        (dict(lors_ffn=dict(rank=[1, 2, 3], init='paper')), ['fc1', 'fc2']),
        (dict(lors_attn={}, qkv_bias=False), ['qkv', 'proj']),
        (dict(lors_attn=dict(bias='shared')), ['qkv', 'proj']),
        (dict(lors_ffn={}, layer_cfgs=dict(num_fcs=3)), ['fc1', 'fc2', 'fc3']),
    ],
    ids=str,
)
def test_options_and_their_merged_vits(options, stacks):
    vit = stirred(**options).double()
    assert [*vit.lors] == stacks
    merged = merge(vit)
    assert merged.stack and not (merged.tuners or merged.lors)
    own = [k for k in options if k.startswith('lors_')]
    plain = stock(**{k: v for k, v in options.items() if k not in own})
    plain.double().load_state_dict(merged.state_dict, strict=True)
    x = images().double()
    assert_same_outputs(vit(x), plain(x), atol=1e-10)
    assert not any(isinstance(m, LORSLinear) for m in plain.modules())


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({}, 'both None, so nothing is shared'),
        (dict(BOTH, frozen_stages=1), 'frozen_stages=1 cannot freeze'),
        (
            dict(
                BOTH,
                layer_cfgs=[dict(feedforward_channels=n) for n in (8, 8, 16)],
            ),
            'different sizes.*same layer_cfgs',
        ),
        (dict(lors_attn=dict(terms=[1, 2])), r'each stage \(3 stages'),
        (dict(lors_ffn=dict(bias='many')), "no bias='many'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**options)


def test_tuners_that_change_a_stock_layer_are_refused():
    cfg = dict(VIT_ARGS, type='mmlowrank.StackSharedViT', **BOTH)
    for tuner in ('RLRR', 'LoRA'):
        with pytest.raises(TypeError, match='cannot be attached'):
            MODELS.build(
                dict(
                    type='mmlowrank.TunedBackbone',
                    backbone=cfg,
                    tuner=dict(type=tuner),
                )
            )


def test_state_dict_goes_round():
    vit, other = stirred(), build(**BOTH)
    other.load_state_dict(vit.state_dict(), strict=True)
    assert_same_outputs(vit(images()), other(images()), atol=0)
    stock_names = stock().state_dict().keys()
    assert all(
        n.startswith('lors.') or n in stock_names for n in vit.state_dict()
    )


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_are_equal_and_independent(copied):
    vit = stirred().double()
    twin = copied(vit)
    for layer in twin.layers:
        assert layer.attn.qkv.stack is twin.lors['qkv']
        assert layer.ffn.layers[1].stack is twin.lors['fc2']
    assert_equal(gradients(twin), gradients(vit), rtol=0, atol=0)
    x = images().double()
    (before,) = vit(x)
    twin.lors['qkv'].weight.data *= 2
    assert torch.equal(vit(x)[0], before)
    assert not torch.equal(twin(x)[0], before)


def test_ema_averages_what_is_shared_once():
    vit = stirred()
    average = ExponentialMovingAverage(vit, momentum=0.25)
    first = copy.deepcopy(vit.state_dict())
    average.update_parameters(vit)
    stir(vit, seed=2)
    average.update_parameters(vit)
    expected = {
        n: torch.lerp(first[n], value, 0.25)
        for n, value in vit.state_dict().items()
    }
    assert_equal(average.module.state_dict(), expected)


def test_two_backward_passes_add_up():
    vit = stirred().double()
    once = gradients(vit)
    loss(vit, images().double()).backward()
    twice = {n: p.grad for n, p in vit.named_parameters()}
    assert_equal(twice, {n: 2 * g for n, g in once.items()})
    storages = {g.untyped_storage().data_ptr() for g in twice.values()}
    assert len(storages) == len(twice)


@pytest.mark.parametrize(
    'turn_on', [checkpoint_parts, turn_on_activation_checkpointing]
)
def test_activation_checkpointing(turn_on):
    vit = stirred(**BOTH, drop_rate=0.3).double()
    torch.manual_seed(3)
    plain = gradients(vit)
    turn_on(vit, [f'layers.{i}' for i in range(VIT_LAYERS)])
    torch.manual_seed(3)
    assert_equal(gradients(vit), plain, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize('checkpointed', [False, True])
def test_ddp_leaves_no_parameter_out(group_of_one, checkpointed):
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = stirred()

        def forward(self, x):
            return loss(self.vit, x)

    expected = gradients(stirred())
    alone = Loss()
    if checkpointed:
        checkpoint_parts(alone, [f'vit.layers.{i}' for i in range(VIT_LAYERS)])
    model = TunerDistributedDataParallel(alone, find_unused_parameters=False)
    # DDP reports an unused parameter in the second iteration.
    for _ in range(2):
        model.zero_grad()
        model(images()).backward()
    ours = {n: p.grad for n, p in alone.vit.named_parameters()}
    assert_equal(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ('dtype', 'share'), [(torch.float16, 0.002), (torch.bfloat16, 0.015)]
)
def test_half_precision(dtype, share):
    """As far from float32 as the rounding of a stock ViT may take it."""
    vit = stirred()
    exact, grads = vit(images())[0], gradients(vit)
    size = exact.abs().max()
    with torch.autocast('cpu', dtype=dtype):
        near = vit(images())[0]
        ours = gradients(vit)
    assert (near.float() - exact).abs().max() < share * size
    for name, grad in grads.items():
        assert ours[name].dtype == torch.float32
        error = (ours[name] - grad).norm() / grad.norm()
        assert error < 4 * share, name
    cast = vit.to(dtype)(images().to(dtype))[0]
    assert cast.dtype == dtype
    assert (cast.float() - exact).abs().max() < share * size


def test_hooks_see_the_layers_of_the_stock_vit():
    vit = stirred().double()
    plain = materialised(vit)
    seen = []
    for model in (vit, plain):
        found = {}

        def note(path, module, inputs, output, found=found):
            found.update({f'{path} in': inputs[0], f'{path} out': output})

        for path, _, _ in SITES.values():
            module = model.get_submodule(f'layers.1.{path}')
            module.register_forward_hook(partial(note, path))
        model(images().double())
        seen.append(found)
    ours, theirs = seen
    assert len(ours) == 8
    assert_equal(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('grad', [False, True])
def test_trace(grad):
    vit, x = in_eval(stirred()), images(1)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(vit, x, check_trace=False, strict=False)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    other = images(1, seed=2)
    assert_same_outputs(torch.jit.load(file)(other), vit(other))


def test_export():
    vit, x = in_eval(stirred()), images(1)
    exported = torch.export.export(vit, (x,), strict=False)
    other = images(1, seed=2)
    assert_same_outputs(exported.module()(other), vit(other))
    assert exported.state_dict.keys() == vit.state_dict().keys()


def test_onnx():
    vit, x, file = in_eval(stirred()), images(1), io.BytesIO()
    torch.onnx.export(vit, (x,), file, dynamo=False, opset_version=17)
    assert_same_outputs(run_onnx(file.getvalue(), x), vit(x), atol=1e-4)


def test_compile():
    # Not in one graph: see test_switches.py on the stock ViT.
    vit = stirred()
    expected = gradients(vit)
    torch._dynamo.reset()
    vit.zero_grad()
    loss(torch.compile(vit, backend='aot_eager'), images()).backward()
    ours = {n: p.grad for n, p in vit.named_parameters()}
    assert_equal(ours, expected, rtol=1e-4, atol=1e-6)


def test_roles():
    vit = build(**BOTH)
    roles = parameter_roles(vit)
    for name, parameter in vit.lors.named_parameters():
        expected = 'bias' if 'biases' in name else 'weight'
        assert roles[id(parameter)] == expected, name
