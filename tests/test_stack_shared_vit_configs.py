"""The configs of LORS^T in a ViT: DeiT-Tiny on CIFAR-100, and on digits."""

import numpy as np
import pytest
import test_configs as common
import torch
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from test_lors_configs import CIFAR, VIT_DIGITS

from mmlowrank.analysis.counting import build_on_meta

each_cifar = pytest.mark.parametrize('leaf', CIFAR)
each_vit = pytest.mark.parametrize('leaf', CIFAR | VIT_DIGITS)


def counted(width, layers, patch, tokens, classes, ranks=None):
    """Count a ViT; ``ranks`` are the sums of those of all blocks."""
    linears = 12 * width**2
    if ranks is None:
        linears *= layers
    else:
        # qkv and proj, then fc1 and fc2: rows and columns.
        linears += (4 + 2) * width * ranks[0] + (5 + 5) * width * ranks[1]
    biases_and_norms = (9 + 4) * width * layers
    stem = (3 * patch**2 + 1) * width + width + tokens * width
    return linears + biases_and_norms + stem + (2 + classes) * width + classes


def test_formulas_give_the_known_counts():
    deit = (192, 12, 4, 14**2 + 1, 100)
    terms = 9 + 2 + 4 + 6
    mini = (64, 6, 8, 5**2 + 1, 10)
    assert [
        counted(*deit, ranks=(32 * terms, 32 * terms)),
        counted(*deit),
        counted(*mini, ranks=(8 * 12, 8 * 12)),
        counted(*mini),
    ] == [*CIFAR.values(), *VIT_DIGITS.values()]


@each_vit
def test_has_as_many_parameters_as_the_formulas_say(leaf):
    model = build_on_meta(common.load(leaf))
    count = sum(p.numel() for p in model.parameters())
    assert count == (CIFAR | VIT_DIGITS)[leaf]
    assert f'{count:,}' in common.readme_row(leaf)


@each_vit
def test_docstring_gives_the_command(leaf):
    text = common.docstring(leaf)
    assert f'python tools/train.py {leaf}' in text
    if leaf in CIFAR:
        assert f'{CIFAR[leaf]:,}' in text
        assert 'no number for this row' in text
        assert 'Not run' in text


@pytest.mark.parametrize('pair', [CIFAR, VIT_DIGITS])
def test_compare_like_with_like(pair):
    """They differ in the type of the backbone, and what it shares."""
    lors, plain = (common.load(leaf).to_dict() for leaf in pair)
    for cfg in (lors, plain):
        cfg.pop('work_dir', None)
    ours, stock = (c['model'].pop('backbone') for c in (lors, plain))
    assert lors == plain
    terms = [ours.pop(f'lors_{part}') for part in ('attn', 'ffn')]
    assert terms[0]['terms'] == terms[1]['terms'][::-1]
    assert ours.pop('type') == 'mmlowrank.StackSharedViT'
    assert stock.pop('type') == 'VisionTransformer'
    assert ours == stock


def test_small_vits_have_every_second_entry_of_the_large_one():
    large, small = (
        common.load(next(iter(pair))).model.backbone
        for pair in (CIFAR, VIT_DIGITS)
    )
    assert large.lors_attn == dict(rank=32, terms=[1] * 9 + [2, 4, 6])
    assert small.lors_attn.terms == large.lors_attn.terms[1::2]


@each_vit
def test_schedule_ends_with_the_loop(leaf):
    cfg = common.load(leaf)
    schedule, epochs = cfg.param_scheduler, cfg.train_cfg.max_epochs
    assert f'_{epochs}e_' in leaf
    assert schedule.get('epochs', schedule.get('total_steps')) == epochs
    assert epochs % cfg.train_cfg.val_interval == 0


@each_cifar
def test_training_is_deit_s(leaf):
    cfg = common.load(leaf)
    common.test_names_resolve_in_the_scope_of_the_config(leaf)
    assert cfg.train_dataloader.batch_size == 512
    assert cfg.auto_scale_lr.base_batch_size == 512
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (5e-4, 0.05)


@each_cifar
def test_what_decays(leaf):
    model = build_on_meta(common.load(leaf))
    wrapper = build_optim_wrapper(model, common.load(leaf).optim_wrapper)
    decays = {
        id(p): group['weight_decay'] > 0
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }
    for name, parameter in model.named_parameters():
        token = name.endswith(('cls_token', 'pos_embed'))
        # Norms and biases have one dimension.
        assert decays[id(parameter)] == (parameter.ndim > 1 and not token)


@each_cifar
def test_a_step_on_images_of_the_pipeline(leaf):
    """Images of 32 pixels as CIFAR-100 has them; 56 reach the model."""
    cfg = common.load(leaf)
    random = np.random.default_rng(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(cfg.model, data_preprocessor=cfg.data_preprocessor)
        )
        loaders = (cfg.train_dataloader, cfg.val_dataloader)
        train, val = (Compose(loader.dataset.pipeline) for loader in loaders)
        images = [
            dict(
                img=random.integers(0, 256, (32, 32, 3), np.uint8), gt_label=i
            )
            for i in (3, 99)
        ]
        found = [train(dict(image)) for image in images]
        assert val(images[0])['inputs'].shape == (3, 56, 56)
        batch = dict(
            inputs=torch.stack([f['inputs'] for f in found]),
            data_samples=[f['data_samples'] for f in found],
        )
        assert batch['inputs'].shape == (2, 3, 56, 56)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        before = model.head.layers.head.weight.clone()
        losses = model.train_step(batch, wrapper)
    assert losses['loss'].isfinite()
    assert not torch.equal(model.head.layers.head.weight, before)
