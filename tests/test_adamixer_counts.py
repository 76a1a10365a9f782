"""Parameters and multiply-adds of decoders: the spec's closed forms."""

import pytest
import torch
from mmengine.config import Config

from mmlowrank.analysis import decoders
from mmlowrank.analysis.counting import build_on_meta
from mmlowrank.analysis.flops import count_multiply_adds


def decoder_on_meta(**options):
    decoder = dict(type='mmlowrank.AdaMixerDecoder', **options)
    return build_on_meta(Config(dict(default_scope='mmdet', model=decoder)))


LAYOUT = dict(groups=2, in_points=64)
# The reading that reproduces the paper's tables.
COUNTED = dict(generator_bias=False, bias='shared')
A6, T8 = dict(rank=16, terms=[1, 1, 2, 2, 3, 3]), dict(rank=8)


def lors(adaptive=A6, static=T8, generator_bias=True, bias='private', **rest):
    static = static and dict(static, bias=bias)
    return dict(
        LAYOUT,
        lors_adaptive=adaptive,
        lors_static=static,
        generator_bias=generator_bias,
        **rest,
    )


def counted(**options):
    return lors(**COUNTED, **options)


def staged(terms):
    return counted(adaptive=dict(terms=terms), num_stages=len(terms))


@pytest.mark.parametrize(
    ('options', 'count'),
    [
        ({}, 110_272_296),
        (LAYOUT, 135_536_424),
        (lors(), 35_348_264),
        (counted(), 35_285_544),
        # Table 4: one part only, the other as in AdaMixer with this layout.
        (counted(static=None), 75_644_712),
        (counted(adaptive=None), 94_882_344),
        # Table 5.
        (counted(adaptive=dict(A6, parts='shared')), 31_967_784),
        (counted(adaptive=dict(A6, parts='private')), 22_702_632),
        # Table 6, K and rank of LORS^A.
        (counted(adaptive=dict(rank=8, terms=1)), 32_404_008),
        (counted(adaptive=dict(rank=16, terms=1)), 33_626_664),
        (counted(adaptive=dict(rank=16, terms=2)), 35_285_544),
        (counted(adaptive=dict(rank=32, terms=1)), 38_431_272),
        # Table 7, rank of LORS^T.
        (counted(static=dict(rank=2)), 34_096_680),
        (counted(static=dict(rank=4)), 34_492_968),
        (counted(static=dict(rank=16)), 36_870_696),
        (counted(static=dict(rank=32)), 40_041_000),
        # Table 8, stages.
        (staged([1, 1, 2]), 27_575_700),
        (staged([1, 2, 3]), 28_128_660),
        (staged([1] * 3 + [2] * 3 + [3] * 3), 42_442_428),
        (staged([1] * 4 + [2] * 4 + [3] * 4), 49_599_312),
    ],
)
def test_decoders_have_as_many_parameters(options, count):
    decoder = decoder_on_meta(**options)
    assert sum(p.numel() for p in decoder.parameters()) == count


def macs(content, *, plain=False, merge=True, **options):
    with torch.device('meta'):
        alone = decoders.DecoderAlone(1, (800, 1280), **options).eval()
    if plain:
        decoders.cat_and_sum(alone)
    else:
        alone.decoder.mixing.merge_at_eval = merge

    class AsModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.alone = alone

        def forward(self, images, mode):
            return alone(torch.empty(1, content, 256, device='meta'))

    return count_multiply_adds(AsModel(), (800, 1280))['total']


@pytest.mark.parametrize('queries', [100, 300])
def test_multiply_adds_of_decoders(queries):
    """Products of a query, from the widths; attention grows with queries."""
    generator, output, mixing = 256 * 49152, 32768 * 256, 2 * 2 * 128**2 * 64
    rest = 98304 + 262144 + 2 * queries * 256 + 1048576 + 131072 + 20480 + 1024
    layout = generator + output + mixing + rest
    stages = 6 * queries
    found = macs(queries, **LAYOUT)
    assert found == stages * layout
    assert macs(queries, **lors()) == found
    terms = 12 * queries * (262144 + 589824 + 294912)
    low_rank = stages * 8 * (32768 + 256)
    assert macs(queries, merge=False, **lors()) == found + terms + low_rank
    formed = 6 * 256 * 8 * 32768
    assert macs(queries, plain=True, **lors()) == found + terms + formed
    own = 256 * 32768 + output + 4 * (32 * 64 * 64 + 128 * 32 * 64) + rest
    assert macs(queries) == stages * own
    if queries == 100:  # in G, as the spec has them
        expected = (11.978, 16.067, 17.602, 17.846)
        counts = (stages * own, found, found + terms + low_rank)
        counts = (*counts, found + terms + formed)
        assert tuple(round(c / 1e9, 3) for c in counts) == expected
