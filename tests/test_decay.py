"""What decays in every dense config, by the names in the authors' code."""

from pathlib import Path

import pytest
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from mmlowrank.analysis import paper_tables
from mmlowrank.analysis.counting import build_on_meta

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
DENSE = ('coco', 'ade20k', 'voc0712')
LEAVES = [
    leaf
    for folder in ('baselines', 'e3va', 'lorand', 'rlrr')
    for leaf in paper_tables.leaves(CONFIGS, folder)
    if leaf.endswith(DENSE)
]
POSITIONS = ('relative_position_bias_table', 'absolute_pos_embed')


def decays(name: str) -> bool:
    """Mona for all methods; the RLRR authors for the tensors of RLRR."""
    if any(word in name for word in ('norm', *POSITIONS)):
        return False
    return not name.endswith('.shift')


@pytest.mark.parametrize('leaf', LEAVES)
def test_what_decays(leaf):
    cfg = paper_tables.load(CONFIGS, leaf)
    model = build_on_meta(cfg)
    options = cfg.optim_wrapper.to_dict()
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(options.pop('constructor'))
    paramwise = options.pop('paramwise_cfg')
    optimizer = constructor(options, paramwise)(model).optimizer
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {
        names[id(p)]: group['weight_decay']
        for group in optimizer.param_groups
        for p in group['params']
    }
    assert set(decayed) == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    decay = 0.01 if leaf.endswith('ade20k') else 0.05
    assert set(decayed.values()) <= {0.0, decay}
    wrong = [
        name
        for name, value in decayed.items()
        if value != decay * decays(name)
    ]
    assert not wrong
