"""LORS and adaptive mixing against the papers' equations written out."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from mmlowrank.nn import LORSAdaptive, LORSStatic, build_mixing
from mmlowrank.nn.mixing_matrices import CastOnce, MixingSizes

DOUBLE = torch.float64
# Two groups of 64 points on 256 channels: the paper's layout.
PAPER = MixingSizes(groups=2, channels=128, in_points=64, out_points=128)
ODD = MixingSizes(groups=3, channels=5, in_points=3, out_points=7)
EMBED_DIMS, QUERIES = 11, 4  # the queries are not as wide as the features


def draw(*shape, dtype=DOUBLE):
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def written_out(mixing, x, query, stage, rank_a, terms, rank_t):
    """Return the mixing of one query as the paper's equations write it.

    Args:
        x: (groups, in_points, C), samples of the query.
        query: (D,).
    """
    groups, channels, points, outs = mixing.generator.sizes
    generator, output = mixing.generator, mixing.output
    rows = channels**2 + points * outs
    shared = generator.shared.weight @ query
    if generator.shared.bias is not None:
        shared = shared + generator.shared.bias
    private = generator.private[stage]
    codes = private.E.weight @ query
    if private.E.bias is not None:
        codes = codes + private.E.bias
    codes = codes.view(2, groups, terms, rank_a, rank_a)
    mixed = []
    for g in range(groups):
        own = shared[g * rows : (g + 1) * rows]
        channel = own[: channels**2].view(channels, channels)
        spatial = own[channels**2 :].view(points, outs)
        for k in range(terms):  # equation 11
            channel = channel + (
                private.channel_B[g, k]
                @ codes[0, g, k]
                @ private.channel_A[g, k]
            )
            spatial = spatial + (
                private.spatial_B[g, k]
                @ codes[1, g, k]
                @ private.spatial_A[g, k]
            )
        y = torch.relu(whitened(x[g] @ channel))  # equation 4
        mixed.append(torch.relu(whitened((y.t() @ spatial).t())).flatten())
    weight = output.weight.t()
    b, a = output.B[stage], output.A[stage]
    for k in range(b.shape[1] // rank_t):  # equation 8
        part = slice(k * rank_t, (k + 1) * rank_t)
        weight = weight + b[:, part] @ a[part]
    bias = output.bias if output.biases is None else output.biases[stage]
    result = torch.cat(mixed) @ weight
    return result if bias is None else result + bias


def whitened(matrix):
    centred = matrix - matrix.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


RANKS = dict(rank=[2, 3], terms=[2, 3])
LAYOUTS = {
    'official': {},
    'paper counts': dict(generator_bias=False),
    'K terms of T': dict(static=dict(rank=[3, 1], terms=[2, 1])),
    'shared bias': dict(static=dict(rank=2, bias='shared')),
    'no bias': dict(static=dict(rank=2, bias='none'), generator_bias=False),
}


def build(num_stages=2, sizes=ODD, seed=0, **options):
    torch.manual_seed(seed)
    mixing = build_mixing(EMBED_DIMS, sizes, num_stages, **options).double()
    for parameter in mixing.parameters():
        torch.nn.init.normal_(parameter)
    return mixing


def samples(sizes=ODD):
    x = draw(sizes.groups, QUERIES, sizes.in_points, sizes.channels)
    return x, draw(QUERIES, EMBED_DIMS)


@pytest.mark.parametrize('stage', [0, 1])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_equals_the_equations(layout, stage):
    options = dict(adaptive=RANKS, static=dict(rank=2)) | LAYOUTS[layout]
    mixing = build(**options)
    x, query = samples()
    ours = mixing(x, query, stage, CastOnce())
    rank_t = options['static']['rank']
    rank_t = rank_t if isinstance(rank_t, int) else rank_t[stage]
    theirs = torch.stack(
        [
            written_out(
                *(mixing, x[:, n], query[n], stage),
                *(RANKS['rank'][stage], RANKS['terms'][stage], rank_t),
            )
            for n in range(QUERIES)
        ]
    )
    # float64 in another order, behind two normalisations.
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    seed = torch.randn_like(ours)
    inputs = [x, query, *mixing.parameters()]
    pairs = zip(
        torch.autograd.grad(ours, inputs, seed, allow_unused=True),
        torch.autograd.grad(theirs, inputs, seed, allow_unused=True),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


COMBINATIONS = {
    'plain': {},
    'A': dict(adaptive=RANKS),
    'T': dict(static=dict(rank=2)),
    'both': dict(adaptive=RANKS, static=dict(rank=2)),
    'both, no generator bias': dict(
        adaptive=RANKS, static=dict(rank=2), generator_bias=False
    ),
    'both, no bias': dict(
        adaptive=RANKS, static=dict(rank=2, bias='none'), generator_bias=False
    ),
    'shared only': dict(adaptive=dict(RANKS, parts='shared')),
    'private only': dict(adaptive=dict(RANKS, parts='private')),
}
combinations = pytest.mark.parametrize('options', COMBINATIONS.values())


@combinations
def test_merged_equals_unmerged(options):
    mixing = build(**options)
    x, query = samples()
    plain = mixing.merged()
    assert not plain.is_lors
    for stage in range(2):
        with_grad = mixing(x, query, stage, CastOnce())
        for other in (plain, mixing.eval()):
            with torch.no_grad():
                merged = other(x, query, stage, CastOnce())
            # float64 in another order, behind two normalisations.
            torch.testing.assert_close(
                merged, with_grad.detach(), rtol=1e-10, atol=1e-10
            )
        mixing.train()


@combinations
def test_merged_state_dict_is_plain_adamixer(options):
    merged = build(**options).merged().state_dict()
    bias = options.get('generator_bias', True)
    plain = build(generator_bias=bias).state_dict()
    assert {k: v.shape for k, v in merged.items()} == {
        k: v.shape for k, v in plain.items()
    }


def test_merged_weights_are_cached_and_dropped():
    mixing = build(adaptive=RANKS, static=dict(rank=2))
    x, query = samples()

    def infer(own=mixing):
        with torch.no_grad():
            return own(x, query, 0, CastOnce())

    mixing.eval()
    first, merged = infer(), mixing._merged
    assert merged is not None
    infer()
    assert mixing._merged is merged
    # With gradients, the weights that train are the ones in use.
    assert mixing(x, query, 0, CastOnce()).requires_grad
    # Neither a copy nor a pickle carries the plain weights along.
    assert copy.deepcopy(mixing)._merged is None
    assert pickle.loads(pickle.dumps(mixing))._merged is None
    assert not any('merged' in key for key in mixing.state_dict())

    other = build(adaptive=RANKS, static=dict(rank=2), seed=1).eval()
    mixing.load_state_dict(other.state_dict())
    assert not torch.equal(infer(), first)
    torch.testing.assert_close(infer(), infer(other))
    with torch.no_grad():
        mixing.output.A[0].mul_(2)
    assert not torch.equal(infer(), infer(other))
    for dropped_by in (mixing.train, mixing.eval, mixing.double):
        mixing.eval()
        infer()
        assert mixing._merged is not None
        dropped_by()
        assert mixing._merged is None
    mixing.merge_at_eval = False
    mixing.eval()
    infer()
    assert mixing._merged is None


@torch.no_grad()
def test_merged_weights_do_not_depend_on_the_first_pass():
    """Not on its autocast, and not on weights of before the mode was set."""
    x, query = (tensor.float() for tensor in samples())
    mixing = build(adaptive=RANKS, static=dict(rank=2)).float().eval()
    wanted = mixing(x, query, 0, CastOnce())
    mixing.eval()
    with torch.autocast('cpu', torch.bfloat16):
        mixing(x, query, 0, CastOnce())
    assert torch.equal(mixing(x, query, 0, CastOnce()), wanted)
    # mmengine's EMAHook swaps the weights so, before a loop calls eval():
    # here of a model that is in that mode, as between two validations.
    mixing.output.A[0].data.copy_(mixing.output.A[0] * 2)
    mixing.eval()
    swapped = mixing(x, query, 0, CastOnce())
    mixing.merge_at_eval = False
    # float32 in another order.
    torch.testing.assert_close(
        swapped, mixing(x, query, 0, CastOnce()), rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(swapped, wanted, rtol=1e-2, atol=1e-2)


def test_merges_where_inference_mode_made_the_parameters():
    x, query = samples()
    with torch.inference_mode():
        mixing = build(adaptive=RANKS, static=dict(rank=2)).eval()
        merged = mixing(x, query, 0, CastOnce())
    assert mixing._merged is not None
    assert merged.isfinite().all()


@combinations
def test_checkpointing_changes_nothing(options):
    x, query = samples()
    results = []
    for with_cp in (False, True):
        mixing = build(with_cp=with_cp, **options)
        with torch.autocast('cpu', torch.bfloat16):
            cast = CastOnce()
            outs = [mixing(x, query, stage, cast) for stage in range(2)]
        inputs = [x, query, *mixing.parameters()]
        grads = torch.autograd.grad(outs, inputs, outs, allow_unused=True)
        results.append([*outs, *grads])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_checkpointing_keeps_no_mixing_matrices():
    numbers = []
    for with_cp in (False, True):
        mixing = build(1, PAPER, adaptive=dict(terms=[1]), with_cp=with_cp)
        own = {p.untyped_storage().data_ptr() for p in mixing.parameters()}
        x, query = samples(PAPER)
        kept = set()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.add(t.untyped_storage().data_ptr()) or t,  # noqa: B023
            lambda t: t,
        ):
            mixing(x, query, 0, CastOnce())
        numbers.append(len(kept - own))
    assert numbers[1] < numbers[0]


def test_static_forward_is_its_merged_layer():
    torch.manual_seed(0)
    layer = LORSStatic(6, 4, num_stages=3, rank=2, terms=[1, 2, 3]).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 5, 6, dtype=DOUBLE)
    for stage in range(3):
        expected = F.linear(x, *layer.merged(stage))
        torch.testing.assert_close(layer(x, stage), expected)


# --- the start


def bound_of(tensor):
    """Return the bound that a uniform draw of this size comes near."""
    assert tensor.numel() > 500
    return tensor.abs().max().item()


@pytest.mark.parametrize('init', ['official', 'paper'])
def test_lors_starts_as_the_authors_say(init):
    """Bounds from the public code, or section 4.1 of the paper."""
    torch.manual_seed(0)
    generator = LORSAdaptive(64, PAPER, num_stages=2, terms=[1, 2], init=init)
    output = LORSStatic(32768, 16, num_stages=2, init=init)
    official = init == 'official'
    for private in generator.private:
        assert not private.E.weight.any() and not private.E.bias.any()
        b_m, a_m, b_s, a_s = map(bound_of, private.factors())
        expected = (
            [6 / 2048, 6 / 2048, 6 / 1024, 6 / 2048]
            if official
            else [6 / 128, 6 / 16, 6 / 64, 6 / 16]
        )
        for found, square in zip((b_m, a_m, b_s, a_s), expected, strict=True):
            assert found == pytest.approx(math.sqrt(square), rel=0.01)
    shared = generator.shared
    assert bound_of(shared.bias) == pytest.approx(1 / 8, rel=0.01)
    if official:
        assert not shared.weight.any()
    else:
        expected = math.sqrt(6 / 64)
        assert bound_of(shared.weight) == pytest.approx(expected, rel=0.01)
    gain = 1 if official else 6
    expected = math.sqrt(gain / 32768)
    assert bound_of(output.weight) == pytest.approx(expected, rel=0.01)
    for b, a, bias in zip(output.B, output.A, output.biases, strict=True):
        assert bound_of(b) == pytest.approx(math.sqrt(6 / 32768), rel=0.01)
        assert not a.any() and not bias.any()


def test_adamixer_starts_as_in_its_paper():
    torch.manual_seed(0)
    mixing = build_mixing(16, MixingSizes(2, 16, 8, 8), 2)
    for linear in mixing.generator:
        assert not linear.weight.any()
        assert bound_of(linear.bias) == pytest.approx(1 / 4, rel=0.01)
    for linear in mixing.output:
        # Xavier, and the bias of nn.Linear.
        expected = math.sqrt(6 / (256 + 16))
        assert bound_of(linear.weight) == pytest.approx(expected, rel=0.01)
        assert 0 < linear.bias.abs().max() <= 1 / 16


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(adaptive=dict(terms=[1, 2, 3])), r'LORS\^A terms.*2 stages'),
        (dict(adaptive=dict(terms=1, rank=[4])), r'LORS\^A rank.*2 stages'),
        (dict(adaptive=dict(terms=0)), r'one positive number'),
        (dict(static=dict(rank=[8, 0])), r'LORS\^T rank.*got \[8, 0\]'),
        (dict(static=dict(bias=True)), 'no bias=True; it knows'),
        (dict(static=dict(init='kaiming')), "no init='kaiming'"),
        (dict(adaptive=dict(terms=1, parts='none')), "no parts='none'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_mixing(EMBED_DIMS, ODD, 2, **options)
