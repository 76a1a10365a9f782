"""The configs of the LORS paper's tables, as one table."""

import re

import pytest
import test_configs as common

from mmlowrank.analysis import count_parameters, paper_tables
from mmlowrank.analysis.counting import build_on_meta

FOLDER = common.ROOT / 'configs/lors'


def leaves(pattern: str) -> list[str]:
    return [
        path.relative_to(common.ROOT).as_posix()
        for path in sorted(FOLDER.glob(pattern))
    ]


LEAVES = leaves('adamixer-*_coco.py')
DIGITS = leaves('adamixer-*_digits.py')
DINO = leaves('dino-*.py')
# The ViTs of LORS^T -> their parameters, with the head.
CIFAR = {
    'configs/lors/deit-tiny_lors-t_300e_cifar100.py': 2_603_812,
    'configs/lors/deit-tiny_plain_300e_cifar100.py': 5_405_476,
}
VIT_DIGITS = {
    'configs/lors/vit-mini_lors-t_200e_digits.py': 167_306,
    'configs/lors/vit-mini_plain_200e_digits.py': 314_762,
}
each_leaf = pytest.mark.parametrize('leaf', LEAVES)

# Trunk, trainable and frozen, and the neck behind it.
TRUNKS = {
    'r50': (23_508_032, 256 * (256 + 512 + 1024 + 2048) + 4 * 256 + 512),
    'r101': (42_500_160, 256 * (256 + 512 + 1024 + 2048) + 4 * 256 + 512),
    'swin-s': (48_838_602, 256 * (96 + 192 + 384 + 768) + 4 * 256 + 512),
}
ADDED = {'lorand-b2r8': 899_520, 'e3va-r8': 893_376}
K6 = [1, 1, 2, 2, 3, 3]


def decoder_size(setting: str) -> int:
    """Count a decoder by the formulas: official biases, 6 stages."""
    common_part, generator, output = 1_568_476, 12_632_064, 8_388_608
    if setting == 'plain':
        return 6 * (common_part + 8_421_376 + output + 256)
    layout = dict(ranks=16, terms=K6, static=8, shared=1, stages=6)
    if setting == 'lors-paper':
        layers = 6 * common_part + generator - 49_152 + output + 256
        return layers + sum(K6) * 276_480 + 6 * 264_192
    found = re.fullmatch(
        r'lors(?:-a-k(?P<k>\d)r(?P<a>\d+)|-t-r(?P<t>\d+)|-n(?P<n>\d+)'
        r'|-(?P<part>(only|shared|private).*)|-(lorand-b2r8|e3va-r8))?',
        setting,
    )
    if found and found['k']:
        layout.update(ranks=int(found['a']), terms=[int(found['k'])] * 6)
    if found and found['t']:
        layout.update(static=int(found['t']))
    if found and found['n']:
        stages = int(found['n'])
        ramp = [k for k in (1, 2, 3) for _ in range(stages // 3)]
        layout.update(stages=stages, terms=ramp)
    stages, r = layout['stages'], layout['ranks']
    # A group's E with biases, and the factors of M and S.
    term = 2 * (257 * 2 * r**2 + (128 + 128 + 64 + 128) * r)
    adaptive = generator + sum(layout['terms']) * term
    static = output + stages * ((32_768 + 256) * layout['static'] + 256)
    part = found['part'] if found else setting
    if part in ('only-t', 'plain-2x64'):
        adaptive = stages * generator
    if part in ('only-a', 'plain-2x64'):
        static = stages * (output + 256)
    if part == 'shared-only':
        adaptive = generator
    if part == 'private-only':
        adaptive -= generator
    return stages * common_part + adaptive + static


def total(leaf: str) -> int:
    """Count a whole detector by the formulas."""
    head, trunk, setting, _, _ = common.stem(leaf).split('_')
    queries = int(head.removeprefix('adamixer-q'))
    added = ADDED.get(setting.removeprefix('lors-'), 0)
    rest = sum(TRUNKS[trunk]) + 260 * queries + added
    return rest + decoder_size(setting)


def expected_leaves() -> set[str]:
    rows = {
        *(('q100', 'r50', s, t) for s in ('plain', 'lors') for t in '13'),
        *(('q300', 'r50', s, t) for s in ('plain', 'lors') for t in '13'),
        *(
            ('q300', trunk, setting, '3')
            for trunk in ('r101', 'swin-s')
            for setting in ('plain', 'lors')
        ),
        *(('q300', 'swin-s', f'lors-{tuner}', '3') for tuner in ADDED),
        *(
            ('q100', 'r50', setting, '1')
            for setting in (
                *('lors-only-a', 'lors-only-t'),  # table 4
                *('lors-shared-only', 'lors-private-only'),  # table 5
                *(f'lors-a-{s}' for s in ('k1r8', 'k1r16', 'k2r16', 'k1r32')),
                *(f'lors-t-r{r}' for r in (2, 4, 16, 32)),  # table 7
                *(f'lors-n{n}' for n in (3, 9, 12)),  # table 8
                *('plain-2x64', 'lors-paper'),
            )
        ),
    }
    return {
        f'configs/lors/adamixer-{queries}_{trunk}_{setting}_{t}x_coco.py'
        for queries, trunk, setting, t in rows
    }


def test_the_tables_of_the_paper_are_complete():
    assert set(LEAVES) == expected_leaves()


def test_every_leaf_is_known_to_a_test():
    """Those of the ViTs and DINOs to test_stack_shared_*_configs.py."""
    assert {*leaves('*.py')} == {
        *(*LEAVES, *DIGITS, *DINO, *CIFAR, *VIT_DIGITS)
    }


@pytest.mark.parametrize(
    ('leaf', 'count'),
    [
        ('adamixer-q100_r50_plain_1x_coco', 134_790_904),
        ('adamixer-q300_r50_plain_3x_coco', 134_842_904),
        ('adamixer-q100_r50_lors_1x_coco', 59_866_872),
        ('adamixer-q300_r50_lors_3x_coco', 59_918_872),
        ('adamixer-q300_r101_lors_3x_coco', 78_911_000),
        ('adamixer-q300_swin-s_lors_3x_coco', 84_635_042),
    ],
)
def test_formulas_give_the_known_counts(leaf, count):
    assert total(f'configs/lors/{leaf}.py') == count


@each_leaf
def test_has_as_many_parameters_as_the_formulas_say(leaf):
    cfg = common.load(leaf)
    model = build_on_meta(cfg)
    setting = common.stem(leaf).split('_')[2]
    decoder = sum(p.numel() for p in model.decoder.parameters())
    assert decoder == decoder_size(setting)
    assert sum(p.numel() for p in model.parameters()) == total(leaf)


@pytest.mark.parametrize('tuner', ADDED)
def test_tuned_backbones_train_what_their_tuner_owns(tuner):
    leaf = f'configs/lors/adamixer-q300_swin-s_lors-{tuner}_3x_coco.py'
    counts = count_parameters(common.load(leaf))
    assert counts['backbone_stock'] == TRUNKS['swin-s'][0]
    assert counts['backbone_added'] == ADDED[tuner]
    # E3VA trains the output norms too.
    norms = 2 * (96 + 192 + 384 + 768) if tuner == 'e3va-r8' else 0
    assert counts['backbone_trainable'] == ADDED[tuner] + norms


@each_leaf
def test_training_is_the_reference_s(leaf):
    cfg = common.load(leaf)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16
    _, trunk, _, schedule, _ = common.stem(leaf).split('_')
    wrapper = cfg.optim_wrapper
    assert (wrapper.optimizer.lr, wrapper.optimizer.weight_decay) == (
        2.5e-5,
        1e-4,
    )
    assert wrapper.clip_grad.max_norm == 1.0
    warm_up, steps = cfg.param_scheduler
    assert warm_up.end == (1000 if trunk == 'swin-s' else 500)
    late = schedule == '3x' and '_plain_' in leaf and 'q100' in leaf
    assert (steps.end, steps.milestones) == {
        '1x': (12, [8, 11]),
        '3x': (36, [27, 33] if late else [24, 33]),
    }[schedule]
    crops = common.found_under('crop_type', cfg.train_dataloader)
    assert bool(crops) == (schedule == '3x' and not late)
    queries = int(re.match(r'adamixer-q(\d+)', common.stem(leaf))[1])
    assert cfg.model.queries.num_queries == queries
    # As many detections as queries.
    assert 'max_per_img' not in cfg.model.decoder
    assert cfg.get('find_unused_parameters', False) is False


@pytest.mark.parametrize('leaf', [leaf for leaf in LEAVES if 'swin' in leaf])
def test_what_decays_on_swin(leaf):
    paramwise = common.load(leaf).optim_wrapper.paramwise_cfg
    assert 'norm_decay_mult' not in paramwise
    assert paramwise.bias_decay_mult == 1.0
    assert set(paramwise.custom_keys) == {
        *('cls_tower.1', 'reg_tower.1', 'neck.norm')
    }


each_common_test = pytest.mark.parametrize(
    'test',
    [
        common.test_schedule_ends_with_the_loop,
        common.test_names_resolve_in_the_scope_of_the_config,
        common.test_docstring_gives_the_command,
    ],
    ids=lambda test: test.__name__,
)


@each_common_test
@each_leaf
def test_is_as_the_other_papers(test, leaf):
    test(leaf)


@each_leaf
def test_docstring_and_readme_have_what_is_printed(leaf):
    row, text = common.readme_row(leaf), common.docstring(leaf)
    decoder = decoder_size(common.stem(leaf).split('_')[2])
    assert f'{decoder:,}' in row
    assert f'{total(leaf):,}' in row
    configs = common.ROOT / 'configs'
    name = leaf.removeprefix('configs/').removesuffix('.py')
    printed = paper_tables.scores(configs, name)
    # Table 4 repeats AdaMixer, trained by the authors of LORS.
    values = {v for key, v in printed.items() if key[0] != 'LORS table 4'}
    values = values or set(printed.values())
    assert values <= common.numbers(row)
    if values:
        assert values <= common.numbers(text)
    else:
        assert 'no number for this row' in text


@pytest.mark.parametrize('leaf', DIGITS)
def test_digit_scenes_compare_like_with_like(leaf):
    cfg = common.load(leaf)
    assert leaf in common.docstring(leaf)
    assert cfg.model.decoder.num_stages == 3
    assert cfg.model.queries.num_queries == 30
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters == 1600
    lors = 'lors_adaptive' in cfg.model.decoder
    assert lors == ('_lors_' in leaf)
    assert len(DIGITS) == 2
