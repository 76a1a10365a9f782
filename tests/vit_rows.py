"""The rows of :mod:`tuner_rows` for the ViT."""

from swins import COMPOSED, VIT_DIMS, VIT_LAYERS

# The same for the ViT: a tuner's type, arguments, count and merge.
D, L = VIT_DIMS, VIT_LAYERS
VIT_TUNERS = {
    'Full': ('Full', {}, None, True),
    'Fixed': ('Fixed', {}, 0, True),
    'BitFit': ('BitFit', {}, 11 * L * D + 2 * D, True),
    'NormTuning': ('NormTuning', {}, 4 * L * D + 2 * D, True),
    'Partial-1': ('Partial', {}, 12 * D**2 + 13 * D, True),
    'Adapter': (
        'Adapter',
        dict(mid_channels=5, hidden_dropout=0.0),
        2 * L * (11 * D + 5),
        False,
    ),
    'Adapter, first and last block': (
        'Adapter',
        dict(mid_channels=5, layers=(0, -1), hidden_dropout=0.0),
        2 * 2 * (11 * D + 5),
        False,
    ),
    'AdaptFormer': (
        'AdaptFormer',
        dict(mid_channels=5, sites=('ffn',), hidden_dropout=0.0),
        L * (11 * D + 5),
        False,
    ),
    'LoRA': ('LoRA', dict(rank=4), 2 * 2 * 4 * L * D, True),
    'LoRA, its one stage': ('LoRA', dict(rank=[4]), 2 * 2 * 4 * L * D, True),
    'LoRand': (
        'LoRand',
        dict(branches=2, rank=8),
        99 * L * D + 256 * L,
        False,
    ),
    'RLRR': ('RLRR', dict(init='identity'), 31 * L * D + 4 * D, True),
    'RLRR, one left scale': (
        'RLRR',
        dict(init='identity', qkv_groups=1),
        29 * L * D + 4 * D,
        True,
    ),
    'RLRR, left': (
        'RLRR',
        dict(init='identity', sides=('left',)),
        22 * L * D + 4 * D,
        True,
    ),
    'RLRR, right': (
        'RLRR',
        dict(init='identity', sides=('right',)),
        22 * L * D + 4 * D,
        True,
    ),
    'RLRR, no residual': (
        'RLRR',
        dict(init='identity', residual=False),
        31 * L * D + 4 * D,
        True,
    ),
    'RLRR, MHA in two layers': (
        'RLRR',
        dict(init='identity', sites=('attn',), layers=(0, -1)),
        2 * 12 * D,
        True,
    ),
    "RLRR, the paper's start": ('RLRR', {}, 31 * L * D + 4 * D, True),
    'SSF': ('SSF', dict(init='identity'), 22 * L * D + 4 * D, True),
    "SSF, the paper's start": ('SSF', {}, 22 * L * D + 4 * D, True),
    'VPT-Shallow': ('VPT', dict(tokens=3, deep=False), 3 * D, False),
    'VPT-Deep': ('VPT', dict(tokens=3), 3 * L * D, False),
    'FacT-TK': (
        'FacT',
        dict(rank=4, scale=2.0),
        2 * 4 * D + 12 * L * 4 + 4**3,
        True,
    ),
    'ARC': (
        'ARC',
        dict(mid_channels=5),
        2 * 5 * D + 2 * L * (5 + D),
        True,
    ),
    'LoRA + LoRA + NormTuning': (
        COMPOSED,
        dict(
            tuner=[
                dict(type='LoRA', rank=4),
                dict(type='LoRA', rank=2, sites=('k', 'fc1')),
                dict(type='NormTuning'),
            ]
        ),
        2 * 2 * 4 * L * D + (2 * 2 + 5 * 2) * L * D + 4 * L * D + 2 * D,
        True,
    ),
}
