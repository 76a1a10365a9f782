"""E3VA against its equations, and what its graph may hold."""

import pytest
import torch
from mmengine.registry import DefaultScope
from swins import FRAMEWORKS, build, images, loss, stir
from torch.utils.checkpoint import checkpoint

every = pytest.mark.parametrize('framework', FRAMEWORKS)


def tuned(framework, **kwargs):
    torch.manual_seed(0)
    backbone = build(
        framework, 'mmlowrank.SwinE3VA', **dict(dict(rank=4), **kwargs)
    )
    stir(backbone)
    return backbone


def tap_by_tap(backbone, x, tuner):
    """Equations 7 and 8 written out on recorded branch outputs."""
    taps, mergings, handles = [], [], []
    maps = tuner.adapter in ('mona', 'colin')
    trunk_sizes = []
    for stage in backbone.stages:
        handles.append(
            stage.register_forward_pre_hook(
                lambda m, args: trunk_sizes.append(args[1])
            )
        )
    for stage in backbone.stages:
        for block in stage.blocks:
            for branch in (block.attn.drop, block.ffn.dropout_layer):
                handles.append(
                    branch.register_forward_hook(
                        lambda m, i, out: taps.append(out.detach())
                    )
                )
        if stage.downsample is not None:
            handles.append(
                stage.downsample.register_forward_pre_hook(
                    lambda m, args: mergings.append(args[1])
                )
            )
    start = []
    handles.append(
        backbone.stages[0]
        .blocks[0]
        .register_forward_pre_hook(
            lambda m, args: start.append(args[0].detach())
        )
    )
    sizes = [out.shape[-2:] for out in backbone(x)]
    for handle in handles:
        handle.remove()
    e, outs, taps = start[0], [], iter(taps)
    for i, blocks in enumerate(tuner.highway.stages):
        for block in blocks:
            for adapter in block.values():
                x = next(taps)
                if tuner.structure == 'stacked':
                    x, e = e + x, 0
                if maps:
                    x = x.unflatten(1, trunk_sizes[i])
                e = e + adapter(x).view(len(x), -1, x.shape[-1])
        out = getattr(backbone, f'norm{i}')._forward_unhooked(e)
        outs.append(out.transpose(1, 2).unflatten(2, sizes[i]))
        if i + 1 < len(tuner.highway.stages):
            merging = backbone.stages[i].downsample
            if tuner.highway.merging is not None:
                merging = tuner.highway.merging[i]
            e, _ = merging.forward(e, mergings[i])
    return outs


@every
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(structure='stacked'),
        dict(reduction='trainable'),
        dict(adapter='standard', mid_channels=6),
        dict(adapter='mona', mid_channels=6),
        dict(adapter='colin', mid_channels=6),
        dict(adapter='colin', mid_channels=6, structure='stacked'),
    ],
    ids=str,
)
def test_one_product_a_stage_equals_tap_by_tap(framework, options):
    """Values and gradients; float64, sums in another order."""
    backbone = tuned(framework, **options).double()
    x = images().double()
    for i in range(4):
        norm = getattr(backbone, f'norm{i}')
        norm._forward_unhooked = norm.forward
    trained = [p for p in backbone.parameters() if p.requires_grad]
    ours, oracle = backbone(x), tap_by_tap(backbone, x, backbone.tuner)
    seeds = [torch.randn_like(out) for out in oracle]
    for one, other in zip(ours, oracle, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    for one, other in zip(
        torch.autograd.grad(ours, trained, seeds),
        torch.autograd.grad(oracle, trained, seeds),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@every
def test_nothing_of_the_trunk_is_saved_for_backward(framework):
    """Saved: taps, codes, and the highway's own stream; nothing more."""
    backbone = tuned(framework)
    trunk, taps = [], []
    for name, module in backbone.named_modules():
        if name.startswith('tuner') or list(module.children()):
            continue
        is_tap = name.endswith(('attn.drop', 'ffn.dropout_layer'))
        is_highway = 'downsample' in name or name.startswith('norm')
        if not is_highway:
            module.register_forward_hook(
                lambda m, args, out, to=taps if is_tap else trunk: to.append(
                    out
                )
            )
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        value = loss(backbone, images())
    storages = {t.untyped_storage().data_ptr() for t in saved}
    tap_storages = {t.untyped_storage().data_ptr() for t in taps}
    assert tap_storages <= storages
    for tensor in trunk:
        assert not tensor.requires_grad
        place = tensor.untyped_storage().data_ptr()
        assert place not in storages - tap_storages
    assert value.requires_grad


@every
def test_bytes_saved_are_taps_codes_and_the_stream(framework):
    """The closed form, so that a regression is seen to the byte."""
    backbone = tuned(framework)
    parameters = {
        p.untyped_storage().data_ptr() for p in backbone.parameters()
    }
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        outs = backbone(images())
    tokens = [out.shape[0] * out[0, 0].numel() for out in outs]
    widths = [out.shape[1] for out in outs]
    depths = [len(stage) for stage in backbone.tuner.highway.stages]
    floats = 0
    for i in range(4):
        taps = 2 * depths[i]
        # Each tap, its x s, and its code; rank 2 * 4.
        floats += tokens[i] * taps * (widths[i] + 8 + 8)
        # Output norm: its input, mean and 1/std.
        floats += tokens[i] * (widths[i] + 2)
        # The stage's concatenated t.
        floats += taps * 8 * widths[i]
        if i < 3:
            # Merging norm: 4C unfolded inputs a merged token, mean, 1/std.
            floats += tokens[i + 1] * (4 * widths[i] + 2)
    total = sum(size for size, _ in saved.values())
    assert total <= 4 * floats


@every
def test_two_forwards_before_one_backward(framework):
    backbone = tuned(framework)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    one, two = images(seed=1), images(seed=2)
    first, second = loss(backbone, one), loss(backbone, two)
    together = torch.autograd.grad(first + second, trained)
    alone = [
        torch.autograd.grad(loss(backbone, x), trained) for x in (one, two)
    ]
    for total, a, b in zip(together, *alone, strict=True):
        torch.testing.assert_close(total, a + b)
    assert not backbone.tuner.highway.outputs


def test_a_failed_forward_leaves_no_state():
    backbone = tuned('mmdet')
    handle = backbone.stages[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backbone(images())
    handle.remove()
    assert not backbone.tuner.highway.outputs
    loss(backbone, images()).backward()


@every
@pytest.mark.parametrize('out_indices', [(1, 2, 3), (0, 1), (2,)])
def test_out_indices(framework, out_indices):
    """No adapters behind the last output, none without a gradient."""
    backbone = tuned(framework, out_indices=out_indices)
    assert len(backbone.tuner.highway.stages) == max(out_indices) + 1
    outs = backbone(images())
    sum(
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
        for out in outs
    ).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) != parameter.requires_grad, name


@every
def test_sum_feeds_both_streams(framework):
    """At the start e = l, and a LayerNorm does not see the factor 2."""
    torch.manual_seed(0)
    both = build(framework, 'mmlowrank.SwinE3VA', rank=4, fpn_input='sum')
    torch.manual_seed(0)
    stock = build(framework, 'SwinTransformer')
    with torch.no_grad():
        for one, other in zip(both(images()), stock(images()), strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


@every
def test_stochastic_depth_drops_the_same_branches(framework):
    """At the start e = l in training too, with the trunk's masks."""
    torch.manual_seed(0)
    tuned_one = build(
        framework,
        'mmlowrank.SwinE3VA',
        rank=4,
        drop_path_rate=0.5,
        stochastic_trunk=True,
    )
    torch.manual_seed(0)
    stock = build(framework, 'SwinTransformer', drop_path_rate=0.5)
    tuned_one.train(), stock.train()
    with torch.no_grad():
        torch.manual_seed(7)
        ours = tuned_one(images())
        torch.manual_seed(7)
        for one, other in zip(ours, stock(images()), strict=True):
            assert torch.equal(one, other)


@every
def test_trainable_reduction_inherits_what_is_loaded_later(framework):
    backbone = tuned(framework, reduction='trainable')
    torch.manual_seed(9)
    stock = build(framework, 'SwinTransformer')
    backbone.load_state_dict(stock.state_dict(), strict=False)
    for i in range(3):
        ours = backbone.tuner.highway.merging[i].reduction.weight
        theirs = stock.stages[i].downsample.reduction.weight
        assert torch.equal(ours, theirs)
    # Its own weights win where a checkpoint has them.
    state_dict = backbone.state_dict()
    name = 'tuner.highway.merging.0.reduction.weight'
    state_dict[name] = state_dict[name] + 1
    backbone.load_state_dict(state_dict)
    assert torch.equal(backbone.state_dict()[name], state_dict[name])


@pytest.mark.parametrize(
    'options',
    [
        dict(structure='serial'),
        dict(reduction='copied'),
        dict(adapter='dense'),
        dict(fpn_input='trunk'),
        dict(rank=0),
        dict(rank=9),
    ],
    ids=str,
)
def test_nonsense_is_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        build('mmdet', 'mmlowrank.SwinE3VA', **options)


def test_norm_after_the_merging_is_refused():
    with (
        DefaultScope.overwrite_default_scope('mmpretrain'),
        pytest.raises(TypeError, match='out_after_downsample'),
    ):
        build(
            'mmpretrain',
            'mmlowrank.SwinE3VA',
            rank=4,
            out_after_downsample=True,
        )


@every
@pytest.mark.parametrize('out_indices', [(), (-1,), (0, -1)])
def test_outputs_that_are_no_stage_are_refused(framework, out_indices):
    with pytest.raises(ValueError, match=r'out_indices=.* 0, 1, 2, 3'):
        tuned(framework, out_indices=out_indices)


@every
def test_a_part_of_the_trunk_that_runs_again_is_refused(framework):
    """The hooks would see a forward pass that has ended."""
    backbone = tuned(framework)
    stage = backbone.stages[2]
    stock = stage.forward
    stage.forward = lambda *args, **kwargs: checkpoint(
        stock, *args, use_reentrant=False, **kwargs
    )
    with pytest.raises(RuntimeError, match='do not checkpoint it'):
        loss(backbone, images()).backward()
