"""The configs of LORS^T in DINO: on COCO, and on digits."""

import pytest
import test_configs as common
from mmengine.config import Config
from test_lors_configs import DINO

from mmlowrank import config_packages
from mmlowrank.analysis import count_parameters

STOCK = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
COCO = 'configs/lors/dino-4scale_r50_lors-t-r16_1x_coco.py'
DIGITS = {
    kind: f'configs/lors/dino-q50_swin-mini_{kind}_800it_digits.py'
    for kind in ('plain', 'lors-t')
}


def decoder_size(width, points, ffn, rank=None, layers=6):
    """Count a decoder of DINO by the formulas."""
    shapes = [
        (3 * width, width),
        (width, width),
        (2 * points, width),
        (points, width),
        (width, width),
        (width, width),
        (ffn, width),
        (width, ffn),
    ]
    if rank is None:
        linears = layers * sum(n * m for n, m in shapes)
    else:
        linears = sum(n * m + layers * rank * (n + m) for n, m in shapes)
    biases_and_norms = layers * (sum(n for n, _ in shapes) + 6 * width)
    # Of the boxes' encoding, and the last norm.
    points_head = 4 * width**2 + width + width**2 + width
    return linears + biases_and_norms + points_head + 2 * width


# Sampling points: heads x levels x points.
SIZES = {
    STOCK: decoder_size(256, 8 * 4 * 4, 2048),
    COCO: decoder_size(256, 8 * 4 * 4, 2048, rank=16),
    DIGITS['plain']: decoder_size(64, 4 * 3 * 4, 256),
    DIGITS['lors-t']: decoder_size(64, 4 * 3 * 4, 256, rank=4),
}


def load(leaf):
    # Not the cached ones: DINO writes into its config.
    if leaf == STOCK:
        return Config.fromfile(config_packages.find(leaf))
    return Config.fromfile(common.ROOT / leaf)


def test_leaves():
    assert {*DINO} == {COCO, *DIGITS.values()}


@pytest.mark.parametrize('leaf', SIZES)
def test_has_as_many_parameters_as_the_formulas_say(leaf):
    counts = count_parameters(load(leaf))
    assert counts['parts']['decoder'] == SIZES[leaf]
    if leaf == STOCK:
        text = common.readme_row(COCO)
    else:
        text = common.readme_row(leaf)
    assert f'{SIZES[leaf]:,}' in text
    assert f'{counts["model_total"]:,}' in text


@pytest.mark.parametrize('leaf', DINO)
def test_docstring_gives_the_command(leaf):
    text = common.docstring(leaf)
    assert leaf in text
    if leaf == COCO:
        assert 'no number for this row' in text
        assert 'Not run here' in text
        assert f'tools/dist_train.sh \\\n    {leaf} 8' in text.replace(
            '        ', '    '
        )


def without_scopes(node):
    """Leave out what mmengine notes where a base is of a package."""
    if isinstance(node, list):
        return [without_scopes(child) for child in node]
    if not isinstance(node, dict):
        return node
    return {k: without_scopes(v) for k, v in node.items() if k != '_scope_'}


@pytest.mark.parametrize(
    ('ours', 'stock'), [(COCO, STOCK), (DIGITS['lors-t'], DIGITS['plain'])]
)
def test_compare_like_with_like(ours, stock):
    """They differ in what builds the model, and what it shares."""
    ours, stock = (load(leaf).to_dict() for leaf in (ours, stock))
    model = ours['model']
    assert model.pop('type') == 'mmlowrank.StackSharedModel'
    assert [*model.pop('stacks')] == ['decoder.layers']
    model['type'] = model.pop('model')
    assert without_scopes(ours) == without_scopes(stock)


@pytest.mark.parametrize('leaf', DIGITS.values())
def test_schedule_ends_with_the_loop(leaf):
    common.test_schedule_ends_with_the_loop(leaf)
    assert load(leaf).train_cfg.max_iters == 800
