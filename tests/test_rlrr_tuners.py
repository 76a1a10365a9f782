"""RLRR and its rivals: merged in float64, loaded, and misused."""

import copy

import pytest
import torch
from swins import (
    DEPTHS,
    EMBED_DIMS,
    FRAMEWORKS,
    VIT,
    VIT_ARGS,
    build,
    images,
    loss,
    stir,
)
from test_engine import construct, options
from test_rlrr_counts import architecture, swin
from test_tuner_contract import stock
from torch import nn
from tuner_rows import TUNERS, kind, rows_of
from vit_rows import VIT_TUNERS

from mmlowrank.tuners import CannotMerge

every = pytest.mark.parametrize('framework', (*FRAMEWORKS, VIT))
LINEAR = {
    (framework, name): row
    for framework in (*FRAMEWORKS, VIT)
    for name, row in rows_of(framework, training=True).items()
    if row[3] and kind(row) in {'RLRR', 'SSF', 'LoRA', 'FacT', 'ARC'}
}
linear = pytest.mark.parametrize(
    'framework, row',
    [(framework, row) for (framework, _), row in LINEAR.items()],
    ids=map('-'.join, LINEAR),
)


@linear
def test_merged_equals_tuned_to_1e_12(framework, row):
    """With windows of 3: padded tokens see the merged weights too."""
    extra = {} if framework == VIT else dict(window_size=3)
    torch.manual_seed(0)
    backbone = build(framework, row[0], **row[1], **extra).double()
    stir(backbone)
    plain = stock(framework, **extra).double()
    # A Swin's eval() returns None.
    backbone.eval(), plain.eval()
    result = plain.load_state_dict(backbone.tuner.merge())
    assert not result.missing_keys and not result.unexpected_keys
    x = images().double()
    with torch.no_grad():
        for one, other in zip(backbone(x), plain(x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_shift_without_a_place_is_said():
    """A reduction that cannot reach the shift; a qkv without bias."""
    backbone = build('mmdet', 'mmlowrank.SwinRLRR')
    stir(backbone)
    with torch.no_grad():
        backbone.stages[0].downsample.reduction.weight[1] = 0
    with pytest.raises(CannotMerge, match=r'because .*reduction has no bias'):
        backbone.tuner.merge()
    for tuner in ('mmlowrank.SwinRLRR', 'mmlowrank.SwinARC'):
        backbone = build('mmdet', tuner, qkv_bias=False)
        stir(backbone)
        with pytest.raises(CannotMerge, match=r'qkv has no bias'):
            backbone.tuner.merge()


@pytest.mark.parametrize('tuner', ['SwinRLRR', 'SwinSSF'])
def test_a_classifiers_last_norm_is_scaled_and_shifted(tuner):
    backbone = build('mmpretrain', f'mmlowrank.{tuner}', out_indices=(3,))
    stir(backbone)
    owned = backbone.tuner.owned()
    assert not any(name.startswith('norm') for name in owned)
    assert backbone.tuner.output.scale.numel() == 8 * EMBED_DIMS
    plain = stock('mmpretrain', out_indices=(3,)).double()
    backbone.double()
    backbone.eval(), plain.eval()
    plain.load_state_dict(backbone.tuner.merge())
    x = images().double()
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(x)[0], plain(x)[0], rtol=1e-12, atol=1e-12
        )


def test_stages_without_an_output_are_left_alone():
    """A merging whose result is not used would never get a gradient."""
    backbone = build('mmdet', 'mmlowrank.SwinRLRR', out_indices=(0, 1))
    stir(backbone)
    sum(out.square().mean() for out in backbone(images())).backward()
    assert len(backbone.tuner.blocks) == sum(DEPTHS[:2])
    assert len(backbone.tuner.reductions) == 1
    for name, parameter in backbone.tuner.named_parameters():
        assert parameter.grad is not None, name


def test_grouped_scales_are_three_linears():
    """q, k and v of a ViT as three layers of the paper's formula."""
    torch.manual_seed(0)
    backbone = build(VIT, 'RLRR').double()
    qkv = backbone.layers[1].attn.qkv
    nn.init.normal_(qkv.bias)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    parts = []
    for i in range(3):
        rows = slice(16 * i, 16 * (i + 1))
        c, r = qkv.scale_left[i : i + 1], qkv.scale_right[rows]
        weight = qkv.weight[rows] * (1 + r @ c)
        parts.append(x @ weight.t() + qkv.bias[rows] + qkv.shift[0, rows])
    torch.testing.assert_close(
        qkv(x), torch.cat(parts, -1), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize('tuner', ['SwinRLRR', 'SwinSSF'])
def test_checkpointed_blocks_give_the_same_gradients(tuner):
    """Swin's own with_cp: the blocks run again in the backward pass."""
    grads = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        backbone = build('mmdet', f'mmlowrank.{tuner}', with_cp=with_cp)
        backbone.double()
        stir(backbone)
        loss(backbone, images().double()).backward()
        grads.append({n: p.grad for n, p in backbone.tuner.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(
            grads[1][name], grad, rtol=1e-9, atol=1e-12, msg=name
        )


def test_branch_dropout_rises_and_is_off_in_evaluation():
    backbone = build(VIT, 'RLRR', branch_dropout=0.4)
    assert [b['dropout'].p for b in backbone.tuner.blocks] == [0, 0.2, 0.4]
    backbone.train()
    with torch.no_grad():
        assert not torch.equal(backbone(images())[0], backbone(images())[0])
        backbone.eval()
        assert torch.equal(backbone(images())[0], backbone(images())[0])


def test_biases_do_not_decay_and_scales_do():
    """Section 4: shifts and norms are not decayed, whatever their shape."""
    model = nn.Module()
    model.backbone = build(VIT, 'RLRR')
    for name, (_, decay) in options(model, construct(model)).items():
        scales = name.endswith(('scale_left', 'scale_right'))
        assert decay == (0.5 if scales else 0.0), name


def fail(*_):
    raise RuntimeError('in the middle')


def test_prompts_stand_behind_the_class_token_and_leave_no_trace():
    backbone = build(VIT, 'VPT', tokens=3, deep=False, out_type='raw')
    seen = []
    for layer in backbone.layers:
        layer.attn.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].shape[1])
        )
    stream = []
    backbone.layers[0].ln1.register_forward_pre_hook(
        lambda _, args: stream.append(args[0])
    )
    out = backbone(images())[0]
    assert seen == [1 + 3 + 16] * 3
    assert out.shape[1] == 1 + 16
    prompts = backbone.tuner.prompts.prompts[0]
    assert torch.equal(stream[0][0, 1:4], prompts)
    # A pass that fails leaves nothing that a copy would trip over.
    backbone.layers[1].ffn.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match='in the middle'):
        backbone(images())
    copy.deepcopy(backbone)


def test_shallow_prompts_are_one_sequence_through_all_layers():
    """Equations 4 to 6, with the stock layers called by hand."""
    torch.manual_seed(0)
    backbone = build(VIT, 'VPT', tokens=3, deep=False).double()
    plain = stock(VIT).double()
    backbone.eval(), plain.eval()
    plain.load_state_dict(backbone.tuner.stock_state_dict())
    x, _ = plain.patch_embed(images().double())
    x = torch.cat([plain.cls_token.expand(2, -1, -1), x], 1)
    x = x + plain.pos_embed
    prompts = backbone.tuner.prompts(0, 2)
    x = torch.cat([x[:, :1], prompts, x[:, 1:]], 1)
    for layer in plain.layers:
        x = layer(x)
    torch.testing.assert_close(
        backbone(images().double())[0],
        plain.ln1(x)[:, 0],
        rtol=1e-12,
        atol=1e-12,
    )


def saved_vit(path, **kwargs):
    """A stock ViT, and an init_cfg with its weights as a classifier's."""
    torch.manual_seed(3)
    source = stock(VIT, **kwargs)
    state_dict = {f'backbone.{n}': t for n, t in source.state_dict().items()}
    torch.save(dict(state_dict=state_dict), path)
    return source, dict(
        type='Pretrained', checkpoint=str(path), prefix='backbone.'
    )


@pytest.mark.parametrize('tuner', ['RLRR', 'SSF', 'VPT', 'FacT', 'ARC'])
def test_pretrained_weights_of_a_vit_arrive(tuner, tmp_path):
    source, init_cfg = saved_vit(tmp_path / 'vit.pth')
    options = dict(rank=4) if tuner == 'FacT' else {}
    backbone = build(VIT, tuner, init_cfg=init_cfg, **options)
    before = copy.deepcopy(backbone.tuner.state_dict())
    backbone.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name
    for name, value in backbone.tuner.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_vit_of_other_depth_or_width_is_refused(tmp_path):
    arch = dict(VIT_ARGS['arch'], num_layers=2)
    _, init_cfg = saved_vit(tmp_path / 'short.pth', arch=arch)
    with pytest.raises(RuntimeError, match=r'short\.pth left 8 .*layers\.2'):
        build(VIT, 'RLRR', init_cfg=init_cfg).init_weights()
    arch = dict(VIT_ARGS['arch'], feedforward_channels=32)
    _, init_cfg = saved_vit(tmp_path / 'thin.pth', arch=arch)
    with pytest.raises(RuntimeError, match=r'thin\.pth left .*ffn'):
        build(VIT, 'RLRR', init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    'tuner, arguments, error, message',
    [
        ('RLRR', dict(init='zero'), ValueError, 'RLRR init must be one of'),
        ('RLRR', dict(sides=('up',)), ValueError, 'RLRR sides must be'),
        ('RLRR', dict(sites='attn'), ValueError, 'sites must be a tuple'),
        ('RLRR', dict(sites=('mlp',)), ValueError, 'sites must be .* some'),
        ('RLRR', dict(layers=(3,)), ValueError, 'has 3, but .* 3 blocks'),
        ('RLRR', dict(qkv_groups=5), ValueError, 'groups=5 must divide'),
        ('RLRR', dict(branch_dropout=1.0), ValueError, 'branch_dropout'),
        ('SSF', dict(init='ones'), ValueError, 'SSF init must be one of'),
        ('VPT', dict(tokens=0), ValueError, 'tokens >= 1'),
        ('FacT', dict(rank=17), ValueError, 'between 1 and the width 16'),
        ('ARC', dict(mid_channels=0), ValueError, 'mid_channels >= 1'),
    ],
)
def test_nonsense_is_refused(tuner, arguments, error, message):
    with pytest.raises(error, match=message):
        build(VIT, tuner, **arguments)


@pytest.mark.parametrize(
    'tuner, message',
    [
        ('VPT', 'VPT cannot be attached to SwinTransformer'),
        ('FacT', r'FacT cannot be attached .* one width'),
    ],
)
def test_tuners_of_a_vit_refuse_a_swin(tuner, message):
    with pytest.raises(TypeError, match=message):
        architecture('mmdet', swin(32, 2), dict(type=tuner))


def test_every_tuner_has_a_row():
    from mmlowrank.registry import TUNERS as REGISTERED

    rows = {
        name
        for row in (*TUNERS.values(), *VIT_TUNERS.values())
        for name in kind(row).split(' + ')
    }
    assert rows == set(REGISTERED.module_dict)
