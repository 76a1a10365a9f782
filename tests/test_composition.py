"""Several methods in one backbone, and stock parts that train beside them."""

import copy
import logging

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from swins import COMPOSED, VIT, build, images, loss, stir

from mmlowrank.tuners import tuners_of


def composed(*tuners, framework='mmdet', **kwargs):
    torch.manual_seed(0)
    return build(framework, COMPOSED, tuner=[*tuners], **kwargs)


LORA = dict(type='LoRA', rank=4)
LORAND = dict(type='LoRand', branches=1, rank=2)
HIGHWAY = dict(type='E3VA', rank=2)


def test_one_of_a_list_is_that_tuner():
    one, alone = composed(LORA), build('mmdet', 'mmlowrank.SwinLoRA', rank=4)
    assert one.state_dict().keys() == alone.state_dict().keys()


def test_a_composition_is_one_tuner():
    backbone = composed(LORA, dict(type='BitFit'))
    tuner = backbone.tuner
    assert tuners_of(backbone) == {'tuner': tuner}
    assert tuner.title == 'LoRA + BitFit'
    assert tuner.arguments == {
        '0.type': 'LoRA',
        '0.rank': 4,
        '0.alpha': None,
        '0.sites': ('q', 'v'),
        '0.layers': None,
        '1.type': 'BitFit',
        '1.position_bias': True,
    }


def test_each_computes_as_if_it_were_alone():
    """The outputs with two methods are the sum where both are linear in W."""
    both = composed(LORAND, dict(type='AdaptFormer', hidden_dropout=0.0))
    first = composed(LORAND)
    stir(both)
    # The second at its start adds nothing.
    parts = both.tuner.parts
    torch.nn.init.zeros_(parts[1].stages[0][0]['ffn'].up.weight)
    for bottleneck in parts[1].modules():
        if hasattr(bottleneck, 'up'):
            torch.nn.init.zeros_(bottleneck.up.weight)
            torch.nn.init.zeros_(bottleneck.up.bias)
    first.tuner.load_state_dict(parts[0].state_dict())
    for a, b in zip(both(images()), first(images()), strict=True):
        torch.testing.assert_close(a, b)


def test_the_second_adapter_reads_the_first():
    backbone = composed(LORAND, dict(LORAND, rank=3))
    seen = []
    one, other = (part.stages[0][0]['attn'] for part in backbone.tuner.parts)
    stir(backbone)
    one.register_forward_hook(lambda *a: seen.append(a[2]))
    other.register_forward_hook(lambda *a: seen.append(a[1][0]))
    backbone(images())
    assert seen[0] is seen[1]


@pytest.mark.parametrize('framework', ['mmdet', VIT])
def test_updates_of_one_layer_add_up_and_merge(framework):
    """Both by a hook and, in attention of PyTorch, by folding."""
    tuned = composed(
        LORA, dict(LORA, sites=('k',), rank=2), framework=framework
    )
    stir(tuned)
    plain = build(framework, 'SwinTransformer')
    plain.load_state_dict(tuned.tuner.merge())
    tuned.eval(), plain.eval()
    for a, b in zip(tuned(images()), plain(images()), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    'tuners, words',
    [
        ((LORA, dict(type='SSF')), 'both change .*qkv.weight'),
        ((dict(type='RLRR'), dict(type='SSF')), 'both change'),
        ((HIGHWAY, HIGHWAY), 'only one tuner of a backbone feeds the outputs'),
        ((), 'names none'),
        # The copies would be of what the first has changed.
        (
            (dict(type='RLRR'), dict(HIGHWAY, reduction='trainable')),
            "leave it at 'inherited'",
        ),
        (
            (dict(HIGHWAY, reduction='trainable'), dict(type='SSF')),
            "leave it at 'inherited'",
        ),
        (
            (dict(LORA, memory='stock'), dict(type='BitFit', memory='lean')),
            "'stock' and 'lean': say it once",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tuners, words):
    with pytest.raises(ValueError, match=words):
        composed(*tuners)


def test_prompts_are_inserted_by_one():
    prompts = dict(type='VPT', tokens=2)
    with pytest.raises(ValueError, match='inserts prompts'):
        composed(prompts, prompts, framework=VIT)


def test_prompts_do_not_go_beside_a_highway():
    with pytest.raises(ValueError, match='prompts are more of them'):
        composed(HIGHWAY, dict(type='VPT', tokens=2), framework=VIT)


@pytest.mark.parametrize('first', [True, False])
def test_a_highway_reads_what_the_others_leave(first):
    """At its start it changes nothing, whatever its place in the list."""
    highway = dict(HIGHWAY, structure='stacked', train_fpn_norms=False)
    mona = dict(type='Mona', mid_channels=4, dropout=0.0)
    both = composed(*((highway, mona) if first else (mona, highway)))
    alone = composed(mona)
    of_mona = both.tuner.parts[int(first)]
    stir(alone)
    of_mona.load_state_dict(alone.tuner.state_dict())
    for one, other in zip(both(images()), alone(images()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    loss(both, images()).backward()
    assert all(p.grad is not None for p in of_mona.parameters())


def test_trainable_of_several_adds_up():
    backbone = composed(
        dict(LORA, trainable=[r'norm0']),
        dict(type='Fixed', trainable=[r'norm1\.weight']),
        trainable=[r'norm2\.bias'],
    )
    trained = {
        name
        for name, p in backbone.named_parameters()
        if p.requires_grad and not name.startswith('tuner.')
    }
    assert trained == {
        *('norm0.weight', 'norm0.bias', 'norm1.weight', 'norm2.bias')
    }


def test_copied_mergings_of_a_highway_follow_the_trunk():
    """Its keys are elsewhere in a composition."""
    highway = dict(HIGHWAY, reduction='trainable')
    backbone = composed(dict(type='BitFit'), highway)
    stock = build('mmdet', 'SwinTransformer')
    stir(stock)
    result = backbone.load_state_dict(stock.state_dict(), strict=False)
    assert not any('merging' in name for name in result.missing_keys)
    merging = backbone.tuner.parts[1].highway.merging[0]
    there = stock.stages[0].downsample.reduction.weight
    assert torch.equal(merging.reduction.weight, there)
    backbone.init_weights()
    there = backbone.stages[0].downsample.reduction.weight
    assert torch.equal(merging.reduction.weight, there)


def test_a_copy_has_methods_of_its_own():
    backbone = composed(LORA, HIGHWAY)
    twin = copy.deepcopy(backbone)
    stir(twin)
    assert twin.tuner.parts[0].backbone is twin
    before = [t.clone() for t in backbone.tuner.parameters()]
    loss(twin, images()).backward()
    for old, new in zip(before, backbone.tuner.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None


# -- trainable ---------------------------------------------------------------


def test_four_channels_train_their_embedding():
    backbone = build(
        'mmdet',
        'mmlowrank.SwinLoRand',
        in_channels=4,
        trainable=['patch_embed'],
    )
    stir(backbone)
    x = torch.randn(2, 4, 64, 64)
    sum(out.sum() for out in backbone(x)).backward()
    embedding = backbone.patch_embed.projection.weight
    assert embedding.grad.abs().sum() > 0
    assert 'patch_embed.projection.weight' in backbone.tuner.owned()
    assert backbone.stages[0].blocks[0].norm1.weight.grad is None


def test_the_list_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        backbone = build(
            'mmdet', 'mmlowrank.SwinFixed', trainable=[r'norm[01]\.']
        )
    names = {n for n, p in backbone.named_parameters() if p.requires_grad}
    assert names == {
        f'norm{i}.{part}' for i in (0, 1) for part in ('weight', 'bias')
    }


def test_a_trained_block_behaves_as_in_full_tuning():
    backbone = build(
        'mmdet',
        'mmlowrank.SwinLoRA',
        rank=4,
        drop_path_rate=0.5,
        trainable=[r'stages\.3\.blocks\.0\.'],
    )
    backbone.train()
    assert backbone.stages[3].blocks[0].attn.drop.training
    assert not backbone.stages[2].blocks[0].attn.drop.training


@pytest.mark.parametrize(
    'trainable, more, words',
    [
        (['nowhere'], {}, 'matches no parameter. Top-level parts are: patch'),
        ('norm0', {}, r"write trainable=\['norm0'\]"),
        (['['], {}, 'no regular expression'),
        (['patch_embed'], dict(frozen_stages=0), 'Lower frozen_stages'),
        # No output depends on it.
        ([r'stages\.3'], dict(out_indices=(0, 1)), 'no output depends'),
    ],
)
def test_patterns_that_name_nothing_are_refused(trainable, more, words):
    with pytest.raises(ValueError, match=words):
        build('mmdet', 'mmlowrank.SwinLoRA', trainable=trainable, **more)


def resnet(tuner, **kwargs):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(
            dict(
                type='mmlowrank.TunedBackbone',
                backbone=dict(
                    type='ResNet', depth=18, base_channels=8, **kwargs
                ),
                tuner=tuner,
            )
        )


def test_statistics_of_what_trains_are_owned():
    owned = resnet(dict(type='Partial')).tuner.owned()
    assert 'layer4.1.bn2.running_mean' in owned
    assert 'layer4.0.bn2.running_mean' not in owned


@pytest.mark.parametrize('names', [r'(weight|bias)$', 'bias$'])
def test_what_counts_as_frozen_does_not_move(names):
    """Statistics move where a norm trains as a whole, and are owned then."""
    tuner = dict(type='Fixed', trainable=[rf'layer3.*bn2\.{names}'])
    backbone = resnet(tuner, norm_eval=False)
    before = {n: t.clone() for n, t in backbone.tuner.frozen().items()}
    backbone.train()
    backbone(images())
    for name, tensor in backbone.tuner.frozen().items():
        assert torch.equal(tensor, before[name]), name
    whole = 'weight' in names
    assert ('layer3.0.bn2.running_var' in backbone.tuner.owned()) == whole


def test_norms_that_the_config_freezes_train_nothing():
    with pytest.raises(ValueError, match='the config freezes all of them'):
        resnet(
            dict(type='NormTuning'),
            norm_cfg=dict(type='BN', requires_grad=False),
        )
    with pytest.raises(ValueError, match='which the config freezes'):
        resnet(
            dict(type='LoRA', rank=2, trainable=['.*bn']),
            norm_cfg=dict(type='BN', requires_grad=False),
        )
