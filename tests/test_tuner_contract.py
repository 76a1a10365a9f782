"""DESIGN's promises: every tuner, the Swin of every framework, a ViT."""

import copy
import io

import pytest
import torch
from swins import (
    FRAMEWORKS,
    VIT,
    build,
    check_autocast,
    images,
    loss,
    stir,
)
from tuner_rows import cells_of, kind, starts_as_the_stock_model

from mmlowrank.tuners import CannotMerge


def cases(training):
    table = {
        f'{framework}-{name}': (framework, row)
        for framework in (*FRAMEWORKS, VIT)
        for name, row in cells_of(framework, training).items()
    }
    return pytest.mark.parametrize('framework, row', table.values(), ids=table)


every = pytest.mark.parametrize('framework', (*FRAMEWORKS, VIT))
tuner_rows = cases(training=False)
training_rows = cases(training=True)


def tuned(framework, row, **kwargs):
    torch.manual_seed(0)
    return build(framework, row[0], **row[1], **kwargs)


def stock(framework, **kwargs):
    torch.manual_seed(0)
    return build(framework, 'SwinTransformer', **kwargs)


def stock_part(state_dict):
    return {k: v for k, v in state_dict.items() if not k.startswith('tuner.')}


@tuner_rows
def test_stock_stays_stock(framework, row):
    backbone, reference = tuned(framework, row), stock(framework)
    assert type(backbone) is type(reference)
    kept = stock_part(backbone.state_dict())
    assert list(kept) == list(reference.state_dict())
    for name, value in reference.state_dict().items():
        assert torch.equal(kept[name], value), name
    # A stock checkpoint loads with no converter.
    result = backbone.load_state_dict(reference.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) == {
        name
        for name in backbone.state_dict()
        if name.startswith('tuner.') and '.merging.' not in name
    }


@tuner_rows
def test_owned_and_frozen_partition_all_tensors(framework, row):
    backbone = tuned(framework, row)
    owned, frozen = backbone.tuner.owned(), backbone.tuner.frozen()
    tensors = dict(backbone.named_parameters())
    tensors.update(backbone.named_buffers())
    assert not set(owned) & set(frozen)
    assert {**owned, **frozen}.keys() == tensors.keys()
    assert all(tensors[n] is t for n, t in {**owned, **frozen}.items())
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (name in owned), name
    backbone.tuner.check()


@tuner_rows
def test_count_is_the_closed_form(framework, row):
    backbone = tuned(framework, row)
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    expected = row[2]
    if expected is None:
        expected = sum(p.numel() for p in stock(framework).parameters())
    assert trained == expected


@tuner_rows
def test_identity_at_start_to_the_bit(framework, row):
    backbone, reference = tuned(framework, row), stock(framework)
    backbone.eval(), reference.eval()
    with torch.no_grad():
        same = map(torch.equal, backbone(images()), reference(images()))
        assert all(same) == starts_as_the_stock_model(row)


@tuner_rows
def test_stock_init_leaves_the_tuner_alone(framework, row):
    backbone = tuned(framework, row)
    before = copy.deepcopy(backbone.tuner.state_dict())
    # The whole model's init_weights reaches the backbone's like this.
    backbone.init_weights()
    after = backbone.tuner.state_dict()
    assert before.keys() == after.keys()
    for name, value in after.items():
        # E3VA's trainable mergings start from what the trunk's start from.
        if '.merging.' in name:
            index, rest = name.removeprefix('highway.merging.').split('.', 1)
            start = backbone.stages[int(index)].downsample.state_dict()[rest]
        else:
            start = before[name]
        assert torch.equal(value, start), name
    backbone.tuner.check()


@every
def test_a_fixed_backbone_builds_no_graph(framework):
    backbone = tuned(framework, cells_of(framework)['Fixed'])
    assert not loss(backbone, images()).requires_grad


@pytest.mark.parametrize('whole', [True, False])
@training_rows
def test_exactly_the_owned_get_a_gradient(framework, row, whole):
    """Also where the last stage, or layer, is behind all outputs."""
    part = {}
    if not whole:
        part['out_indices'] = (1,) if framework == VIT else (0, 1, 2)
        ranks = row[1].get('rank')
        if framework != VIT and isinstance(ranks, list):
            row = (row[0], dict(row[1], rank=ranks[:3]))
    backbone = tuned(framework, row, **part)
    stir(backbone)
    loss(backbone, images()).backward()
    owned = backbone.tuner.owned()
    for name, parameter in backbone.named_parameters():
        if name not in owned:
            assert parameter.grad is None, name
        else:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


@tuner_rows
def test_checkpoint_round_trip(framework, row):
    backbone = tuned(framework, row)
    stir(backbone)
    file = io.BytesIO()
    torch.save(backbone.state_dict(), file)
    file.seek(0)
    torch.manual_seed(5)
    again = build(framework, row[0], **row[1])
    again.load_state_dict(torch.load(file, weights_only=True))
    backbone.eval(), again.eval()
    with torch.no_grad():
        for one, other in zip(
            backbone(images()), again(images()), strict=True
        ):
            assert torch.equal(one, other)


@tuner_rows
def test_a_deep_copy_is_independent(framework, row):
    backbone = tuned(framework, row)
    stir(backbone)
    twin = copy.deepcopy(backbone)
    assert twin.tuner.backbone is twin
    twin.eval(), backbone.eval()
    with torch.no_grad():
        before = [out.clone() for out in backbone(images())]
        assert all(map(torch.equal, before, twin(images())))
        for parameter in twin.parameters():
            parameter.mul_(1.5)
        assert all(map(torch.equal, before, backbone(images())))
        changed = map(torch.equal, before, twin(images()))
        assert not all(changed)


@tuner_rows
def test_frozen_parts_compute_the_same_in_training(framework, row):
    """Stochastic depth acts only where something trains, or on request."""
    whole = ('Full', 'Partial')
    backbone = tuned(framework, row, drop_path_rate=0.5)
    backbone.train()
    with torch.no_grad():
        same = all(map(torch.equal, backbone(images()), backbone(images())))
    # Partial trains its last block as a whole.
    assert same == (kind(row) not in whole)
    if kind(row) == 'Full':
        return
    backbone = tuned(framework, row, drop_path_rate=0.5, stochastic_trunk=True)
    backbone.train()
    with torch.no_grad():
        assert not all(
            map(torch.equal, backbone(images()), backbone(images()))
        )
    backbone.eval()
    with torch.no_grad():
        assert all(map(torch.equal, backbone(images()), backbone(images())))


@training_rows
def test_autocast_keeps_gradients_in_fp32(framework, row):
    backbone = tuned(framework, row)
    stir(backbone)
    check_autocast(backbone, images())


@tuner_rows
def test_merge_gives_the_stock_keys_or_a_reason(framework, row):
    backbone = tuned(framework, row)
    if not row[3]:
        with pytest.raises(CannotMerge, match='because'):
            backbone.tuner.merge()
        return
    stir(backbone)
    merged = backbone.tuner.merge()
    plain = stock(framework)
    assert list(merged) == list(plain.state_dict())
    plain.load_state_dict(merged)
    backbone.eval(), plain.eval()
    with torch.no_grad():
        for one, other in zip(
            backbone(images()), plain(images()), strict=True
        ):
            # One rounding of a weight in float32.
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@tuner_rows
def test_stock_frozen_stages_stay_frozen(framework, row):
    # Up to the patch embedding; a ViT counts from one.
    stages = 1 if framework == VIT else 0
    backbone = tuned(framework, row, frozen_stages=stages)
    backbone.tuner.check()
    frozen = backbone.tuner.frozen()
    for name, _ in backbone.patch_embed.named_parameters():
        assert f'patch_embed.{name}' in frozen
    backbone.train()
    backbone.tuner.check()
