"""One row for each tuner and variant that the contract tests run."""

from swins import (
    COMPOSED,
    DEPTHS,
    EMBED_DIMS,
    NUM_HEADS,
    VIT,
    WIDTHS,
)
from vit_rows import VIT_TUNERS

BLOCKS = sum(DEPTHS)
OUTPUT_NORMS = 2 * sum(EMBED_DIMS * 2**i for i in range(4))
MERGING_NORMS = sum(8 * EMBED_DIMS * 2**i for i in range(3))
# Biases of the patch embedding and its norm, of merging and output norms.
BIASES_OUTSIDE = 2 * EMBED_DIMS + (MERGING_NORMS + OUTPUT_NORMS) // 2
TABLES = sum(49 * h * n for h, n in zip(NUM_HEADS, DEPTHS, strict=True))
LAST = WIDTHS[-1]
MERGINGS = sum(
    8 * d * d + 8 * d for d in (EMBED_DIMS * 2**i for i in range(3))
)
# RLRR of (2D, 4D) reductions: 4D left, 2D right, 2D shift; SSF of them and
# of the norms before them.
REDUCTIONS = sum(8 * EMBED_DIMS * 2**i for i in range(3))
MERGINGS_SSF = sum(12 * EMBED_DIMS * 2**i for i in range(3))
# Backbone type, its arguments, the number of parameters it trains (None: all
# of the stock backbone), whether it merges. A new tuner adds one row.
TUNERS = {
    'Full': ('mmlowrank.SwinFull', {}, None, True),
    'Fixed': ('mmlowrank.SwinFixed', {}, 0, True),
    'Adapter-B': (
        'mmlowrank.SwinAdapter',
        dict(hidden_dropout=0.0),
        sum(d * d + d // 2 + d for d in WIDTHS) * 2,
        False,
    ),
    'Adapter-T': (
        'mmlowrank.SwinAdapter',
        dict(mid_ratio=0.25, hidden_dropout=0.0),
        sum(d * d // 2 + d // 4 + d for d in WIDTHS) * 2,
        False,
    ),
    'Adapter-5': (
        'mmlowrank.SwinAdapter',
        dict(mid_channels=5, hidden_dropout=0.0),
        sum(11 * d + 5 for d in WIDTHS) * 2,
        False,
    ),
    'Adapter-5, one site': (
        'mmlowrank.SwinAdapter',
        dict(mid_channels=5, sites=('ffn',), hidden_dropout=0.0),
        sum(11 * d + 5 for d in WIDTHS),
        False,
    ),
    'LoRand': (
        'mmlowrank.SwinLoRand',
        dict(branches=2, rank=8),
        99 * sum(WIDTHS) + 256 * BLOCKS,
        False,
    ),
    'LoRand+': (
        'mmlowrank.SwinLoRand',
        dict(branches=4, rank=8),
        195 * sum(WIDTHS) + 512 * BLOCKS,
        False,
    ),
    'LoRand, K not shared': (
        'mmlowrank.SwinLoRand',
        dict(branches=2, rank=8, share_kernel=False),
        99 * sum(WIDTHS) + 512 * BLOCKS,
        False,
    ),
    'LoRand, MLPs of two blocks, a rank a stage': (
        'mmlowrank.SwinLoRand',
        dict(rank=[2, 4, 6, 8], sites=('ffn',), layers=(0, -1)),
        sum(
            (12 * r + 3) * d // 2 + 2 * r * r
            for r, d in ((2, WIDTHS[0]), (8, LAST))
        ),
        False,
    ),
    'BitFit': (
        'mmlowrank.SwinBitFit',
        {},
        11 * sum(WIDTHS) + TABLES + BIASES_OUTSIDE,
        True,
    ),
    'BitFit, true biases': (
        'mmlowrank.SwinBitFit',
        dict(position_bias=False),
        11 * sum(WIDTHS) + BIASES_OUTSIDE,
        True,
    ),
    'NormTuning': (
        'mmlowrank.SwinNormTuning',
        {},
        4 * sum(WIDTHS) + 2 * EMBED_DIMS + MERGING_NORMS + OUTPUT_NORMS,
        True,
    ),
    'Partial-1': (
        'mmlowrank.SwinPartial',
        {},
        12 * LAST**2 + 13 * LAST + 49 * NUM_HEADS[-1],
        True,
    ),
    'Partial, first and last': (
        'mmlowrank.SwinPartial',
        dict(layers=(0, -1)),
        sum(
            12 * d * d + 13 * d + 49 * heads
            for d, heads in ((WIDTHS[0], NUM_HEADS[0]), (LAST, NUM_HEADS[-1]))
        ),
        True,
    ),
    'AdaptFormer': (
        'mmlowrank.SwinAdaptFormer',
        dict(mid_channels=5, hidden_dropout=0.0),
        sum(11 * d + 5 for d in WIDTHS) * 2,
        False,
    ),
    'AdaptFormer, MLP only': (
        'mmlowrank.SwinAdaptFormer',
        dict(mid_channels=5, sites=('ffn',), hidden_dropout=0.0),
        sum(11 * d + 5 for d in WIDTHS),
        False,
    ),
    'AdaptFormer, last three blocks': (
        'mmlowrank.SwinAdaptFormer',
        dict(mid_channels=5, layers=(-3, -2, -1), hidden_dropout=0.0),
        sum(11 * d + 5 for d in WIDTHS[-3:]) * 2,
        False,
    ),
    'LoRA': (
        'mmlowrank.SwinLoRA',
        dict(rank=4),
        2 * 2 * 4 * sum(WIDTHS),
        True,
    ),
    'LoRA, qkv, alpha 1': (
        'mmlowrank.SwinLoRA',
        dict(rank=4, alpha=1, sites=('q', 'k', 'v')),
        3 * 2 * 4 * sum(WIDTHS),
        True,
    ),
    'LoRA, MLPs of the first half, a rank a stage': (
        'mmlowrank.SwinLoRA',
        dict(
            rank=[2, 3, 4, 8],
            sites=('fc1', 'fc2'),
            layers=range(BLOCKS // 2),
        ),
        # Two blocks in the first stage, one in the second.
        10 * (2 * 2 * WIDTHS[0] + 3 * WIDTHS[2]),
        True,
    ),
    'RLRR': (
        'mmlowrank.SwinRLRR',
        dict(init='identity'),
        29 * sum(WIDTHS) + REDUCTIONS + OUTPUT_NORMS,
        True,
    ),
    'RLRR, three left scales': (
        'mmlowrank.SwinRLRR',
        dict(init='identity', qkv_groups=3),
        31 * sum(WIDTHS) + REDUCTIONS + OUTPUT_NORMS,
        True,
    ),
    'RLRR, right': (
        'mmlowrank.SwinRLRR',
        dict(init='identity', sides=('right',)),
        (29 - 7) * sum(WIDTHS) + REDUCTIONS // 2 + OUTPUT_NORMS,
        True,
    ),
    'RLRR, no residual': (
        'mmlowrank.SwinRLRR',
        dict(init='identity', residual=False),
        29 * sum(WIDTHS) + REDUCTIONS + OUTPUT_NORMS,
        True,
    ),
    'RLRR, MLPs and norms': (
        'mmlowrank.SwinRLRR',
        dict(init='identity', sites=('ffn', 'norm')),
        19 * sum(WIDTHS) + OUTPUT_NORMS,
        True,
    ),
    "RLRR, the paper's start": (
        'mmlowrank.SwinRLRR',
        {},
        29 * sum(WIDTHS) + REDUCTIONS + OUTPUT_NORMS,
        True,
    ),
    'SSF, last block': (
        'mmlowrank.SwinSSF',
        dict(init='identity', layers=(-1,)),
        22 * LAST + 4 * EMBED_DIMS + MERGINGS_SSF + OUTPUT_NORMS,
        True,
    ),
    'SSF': (
        'mmlowrank.SwinSSF',
        dict(init='identity'),
        22 * sum(WIDTHS) + 4 * EMBED_DIMS + MERGINGS_SSF + OUTPUT_NORMS,
        True,
    ),
    'ARC': (
        'mmlowrank.SwinARC',
        dict(mid_channels=5),
        2 * 5 * 15 * EMBED_DIMS + 2 * sum(5 + d for d in WIDTHS),
        True,
    ),
    'Mona': (
        'mmlowrank.SwinMona',
        dict(mid_channels=6, dropout=0.0, init='identity'),
        2 * sum(17 * d + 564 for d in WIDTHS),
        False,
    ),
    "Mona, MLP only, the paper's start": (
        'mmlowrank.SwinMona',
        dict(mid_channels=6, dropout=0.0, sites=('ffn',)),
        sum(17 * d + 564 for d in WIDTHS),
        False,
    ),
    'CoLin': (
        'mmlowrank.SwinCoLin',
        dict(mid_channels=6, rank=4, init='identity'),
        2 * sum(9 * d + 136 for d in WIDTHS),
        False,
    ),
    "CoLin, two blocks, a rank a stage, the paper's start": (
        'mmlowrank.SwinCoLin',
        dict(mid_channels=6, rank=[2, 3, 4, 5], branches=2, layers=(0, -1)),
        2
        * sum(
            (2 * r + 1) * d + 14 * r + 72
            for r, d in ((2, WIDTHS[0]), (5, LAST))
        ),
        False,
    ),
    'E3VA': (
        'mmlowrank.SwinE3VA',
        dict(rank=4),
        (12 * 4 + 3) * sum(WIDTHS) + OUTPUT_NORMS,
        False,
    ),
    'E3VA, a rank a stage, one site of the last block': (
        'mmlowrank.SwinE3VA',
        dict(rank=[1, 2, 3, 4], sites=('ffn',), layers=(-1,)),
        6 * 4 * LAST + LAST // 2 + LAST + OUTPUT_NORMS,
        False,
    ),
    'E3VA, stacked, one site of the last block': (
        'mmlowrank.SwinE3VA',
        dict(rank=4, structure='stacked', sites=('attn',), layers=(-1,)),
        6 * 4 * LAST + LAST // 2 + LAST + OUTPUT_NORMS,
        False,
    ),
    'E3VA, stacked': (
        'mmlowrank.SwinE3VA',
        dict(rank=4, structure='stacked', train_fpn_norms=False),
        (12 * 4 + 3) * sum(WIDTHS),
        False,
    ),
    'E3VA, trainable reduction': (
        'mmlowrank.SwinE3VA',
        dict(rank=4, reduction='trainable'),
        (12 * 4 + 3) * sum(WIDTHS) + OUTPUT_NORMS + MERGINGS,
        False,
    ),
    'E3VA, standard': (
        'mmlowrank.SwinE3VA',
        dict(adapter='standard', mid_channels=6),
        2 * sum(13 * d + 6 for d in WIDTHS) + OUTPUT_NORMS,
        False,
    ),
    'E3VA, Mona': (
        'mmlowrank.SwinE3VA',
        dict(adapter='mona', mid_channels=6),
        2 * sum(17 * d + 564 for d in WIDTHS) + OUTPUT_NORMS,
        False,
    ),
    'E3VA, CoLin': (
        'mmlowrank.SwinE3VA',
        dict(adapter='colin', mid_channels=6, rank=4),
        2 * sum(9 * d + 136 for d in WIDTHS) + OUTPUT_NORMS,
        False,
    ),
    'LoRand, output norms, a layer': (
        'mmlowrank.SwinLoRand',
        dict(
            branches=2,
            rank=8,
            trainable=[r'norm\d', r'stages\.1.*0\.ffn\.layers\.1\.'],
        ),
        99 * sum(WIDTHS)
        + 256 * BLOCKS
        + OUTPUT_NORMS
        + 16 * EMBED_DIMS**2
        + 2 * EMBED_DIMS,
        False,
    ),
    'LoRA + BitFit': (
        COMPOSED,
        dict(
            tuner=[
                dict(type='LoRA', rank=4),
                dict(type='BitFit', position_bias=False),
            ]
        ),
        (16 + 11) * sum(WIDTHS) + BIASES_OUTSIDE,
        True,
    ),
    'E3VA + Adapter': (
        COMPOSED,
        dict(
            tuner=[
                dict(type='E3VA', rank=4),
                dict(type='Adapter', mid_channels=5, hidden_dropout=0.0),
            ]
        ),
        (12 * 4 + 3) * sum(WIDTHS)
        + OUTPUT_NORMS
        + 2 * sum(11 * d + 5 for d in WIDTHS),
        False,
    ),
}


def starts_as_the_stock_model(row):
    """Prompts are seen at once; some methods do on request."""
    if kind(row) in ('RLRR', 'SSF', 'Mona', 'CoLin'):
        return row[1].get('init') == 'identity'
    return kind(row) != 'VPT'


def kind(row):
    if row[0] == COMPOSED:
        return ' + '.join(tuner['type'] for tuner in row[1]['tuner'])
    return row[0].removeprefix('mmlowrank.Swin')


def rows_of(framework, training=False):
    """Return name -> row of what is tested on a backbone."""
    rows = VIT_TUNERS if framework == VIT else TUNERS
    return {n: r for n, r in rows.items() if r[2] != 0 or not training}


def cells_of(framework, training=False):
    """Return the rows for what is tested on every framework.

    One for each kind of tuner on mmseg and mmpretrain, whose Swins are
    mmdet's in all that the variants of a tuner differ in.
    """
    rows = rows_of(framework, training)
    if framework not in ('mmseg', 'mmpretrain'):
        return rows
    first = {kind(row): name for name, row in reversed(rows.items())}
    return {name: rows[name] for name in rows if name in first.values()}
