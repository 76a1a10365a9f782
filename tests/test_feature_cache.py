"""Features of a frozen trunk: read from disk, they train as computed ones."""

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace

import hosts
import pytest
import swins
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmlowrank.checkpoint.adapter_checks import base_of
from mmlowrank.engine import FeatureCacheHook
from mmlowrank.engine.feature_cache import CachedForward, fingerprint_of
from mmlowrank.engine.feature_store import FeatureStore
from mmlowrank.tuners import checkpoint_parts
from mmlowrank.tuners.frozen_part import FrozenPart, NotFrozen

ROOT = Path(__file__).resolve().parents[1]
NAME = 'a' * 32


def cached(backbone, folder, stored='float32'):
    """Keep the features of a backbone from now on."""
    store = FeatureStore(folder, NAME, limit=10**9)
    cache = CachedForward(FrozenPart(backbone.tuner), 'x', store, stored)
    cache.install()
    return cache


def step(backbone, x):
    """Return outputs and gradients of a step, with its random numbers."""
    backbone.zero_grad()
    torch.manual_seed(5)
    outputs = backbone(x)
    parts = [outputs] if isinstance(outputs, torch.Tensor) else [*outputs]
    if any(part.requires_grad for part in parts):
        # A plain sum of normalised tokens would be constant.
        sum(part.pow(3).sum() for part in parts).backward()
    grads = {
        name: parameter.grad
        for name, parameter in backbone.named_parameters()
        if parameter.grad is not None
    }
    return parts, grads


def check_same(one, other):
    for ours, theirs in zip(one[0], other[0], strict=True):
        # A batch of one may sum in another order than a batch of two.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert ours.requires_grad == theirs.requires_grad
    assert one[1].keys() == other[1].keys()
    for name, grad in other[1].items():
        scale = grad.abs().max()
        assert (one[1][name] - grad).abs().max() <= 1e-4 * scale, name


@pytest.mark.parametrize('host', hosts.HOSTS)
def test_every_family_is_entered_at_its_last_block(host, tmp_path):
    """With its dropout, and with statistics that move once a step."""
    stock = hosts.build(host, dict(type='Partial'))
    ours = copy.deepcopy(stock)
    x = hosts.images(host)
    cache = cached(ours, tmp_path)
    for _ in range(2):
        check_same(step(ours, x), step(stock, x))
    assert (cache.computed, cache.read, cache.stock) == (2, 2, 0)
    for name, buffer in stock.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)


@pytest.mark.parametrize('framework', swins.FRAMEWORKS)
@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        ('Fixed', {}),
        ('Partial', {}),
        # The last block of stage 0 and one of stage 2.
        ('Partial', dict(layers=[1, 4], drop_path_rate=0.5)),
    ],
)
def test_swins(framework, kind, options, tmp_path):
    stock = swins.build(framework, f'mmlowrank.Swin{kind}', **options)
    ours = copy.deepcopy(stock)
    cache = cached(ours, tmp_path)
    x = swins.images(batch=3)
    kinds = {type(ours(x[:1])) for _ in range(2)}
    assert kinds == {type(stock(x))}
    # One of the batch is known, and two are not.
    for _ in range(2):
        check_same(step(ours, x), step(stock, x))
    assert (cache.computed, cache.read) == (3, 5)
    # Evaluation computes, to the bit.
    ours.eval(), stock.eval()
    for one, other in zip(ours(x), stock(x), strict=True):
        assert torch.equal(one, other)
    assert cache.seen == 8


def test_what_is_known_does_not_run(tmp_path, monkeypatch):
    # PARTIAL runs its last block for the outputs, too, and once more to see
    # whether they are the same.
    for kind, first, later in (('Fixed', 6, 0), ('Partial', 6 + 1 + 1, 1)):
        backbone, ran = swins.build('mmdet', f'mmlowrank.Swin{kind}'), []
        block = type(backbone.stages[0].blocks[0])

        def forward(self, *args, ran=ran, stock=block.forward):
            ran.append(self)
            return stock(self, *args)

        cached(backbone, tmp_path / kind)
        with monkeypatch.context() as patch:
            patch.setattr(block, 'forward', forward)
            backbone(swins.images())
            assert len(ran) == first
            backbone(swins.images())
            assert len(ran) == first + later


@pytest.mark.parametrize(
    ('kind', 'options', 'reason'),
    [
        ('Full', {}, 'in none of the blocks'),
        ('LoRA', dict(rank=2), 'adds modules'),
        ('E3VA', dict(rank=2), 'adds modules'),
        ('Fixed', dict(stochastic_trunk=True), 'leave stochastic_trunk out'),
        ('Fixed', dict(trainable=['norm0']), r'trains norm0\.bias'),
        ('Partial', dict(layers=[0, -1]), 'first block'),
    ],
)
def test_trunks_that_move_are_refused(kind, options, reason):
    backbone = swins.build('mmdet', f'mmlowrank.Swin{kind}', **options)
    with pytest.raises(NotFrozen, match=reason):
        FrozenPart(backbone.tuner)


def test_a_trunk_that_cannot_be_entered_is_refused(tmp_path, monkeypatch):
    """Something behind its first trained block reads what was before it."""
    backbone = hosts.build('resnet', dict(type='Partial', layers=[3]))
    stage = type(backbone.layer2)

    def forward(self, x, stock=stage.forward):
        return stock(self, x) + x.mean()

    monkeypatch.setattr(stage, 'forward', forward)
    with pytest.raises(RuntimeError, match='cannot be entered'):
        cached(backbone, tmp_path)(hosts.images('resnet'))


@pytest.mark.parametrize('kind', ['Fixed', 'Partial'])
def test_it_steps_aside_where_somebody_looks(kind, tmp_path):
    backbone = swins.build('mmdet', f'mmlowrank.Swin{kind}')
    cache, x, seen = cached(backbone, tmp_path), swins.images(), []
    look = backbone.stages[1].register_forward_hook
    handle = look(lambda *_: seen.append(1))
    backbone(x), backbone(x)
    assert len(seen) == 2
    handle.remove()
    # Around the whole, and in what trains, a hook sees all there is.
    backbone.register_forward_hook(lambda *_: seen.append(2))
    backbone(x), backbone(x)
    assert (cache.stock, cache.computed, cache.read) == (4, 2, 2)
    assert seen[2:] == [2, 2]
    # A dropout that is on again.
    backbone.drop_after_pos.train()
    backbone(x)
    assert cache.stock == 6


def test_it_steps_aside_without_a_gradient_and_in_a_trace(tmp_path):
    backbone = swins.build('mmdet', 'mmlowrank.SwinFixed')
    cache, x = cached(backbone, tmp_path), swins.images()
    with torch.no_grad():
        backbone(x)
    torch.jit.trace(backbone, x, check_trace=False)
    assert cache.seen == 0
    # Images that want a gradient themselves.
    backbone(x.clone().requires_grad_())[0].sum().backward()
    assert (cache.stock, cache.store.entries) == (2, 0)


@pytest.mark.parametrize(
    'part', ['backbone', 'stages.3', 'stages.3.blocks.0', 'stages.0']
)
def test_checkpointed_activations_give_the_same_gradients(part, tmp_path):
    stock = swins.build('mmdet', 'mmlowrank.SwinPartial')
    ours = copy.deepcopy(stock)
    if part == 'backbone':
        model = torch.nn.ModuleDict(dict(backbone=ours))
        checkpoint_parts(model, ['backbone'])
    else:
        checkpoint_parts(ours, [part])
    cache, x = cached(ours, tmp_path), swins.images()
    for _ in range(2):
        check_same(step(ours, x), step(stock, x))
    aside = part in ('backbone', 'stages.3')
    assert cache.read == (0 if aside else 2)


def test_autocast_has_entries_of_its_own(tmp_path):
    stock = swins.build('mmdet', 'mmlowrank.SwinPartial')
    ours = copy.deepcopy(stock)
    cache, x = cached(ours, tmp_path), swins.images()
    ours(x)
    for _ in range(2):
        with torch.autocast('cpu', torch.bfloat16):
            one, other = ours(x), stock(x)
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype
        one[-1].pow(3).sum().backward()
        assert all(p.grad is not None for p in _trained(ours))
    assert (cache.computed, cache.read) == (4, 2)


def _trained(backbone):
    return [p for p in backbone.parameters() if p.requires_grad]


def test_copies_and_pickles_know_no_folder(tmp_path):
    backbone = swins.build('mmdet', 'mmlowrank.SwinFixed')
    cache, x = cached(backbone, tmp_path / 'secret'), swins.images()
    data = pickle.dumps(backbone)
    assert b'secret' not in data
    for other in (copy.deepcopy(backbone), pickle.loads(data)):
        assert other.forward.__self__ is other
        for ours, theirs in zip(other(x), backbone(x), strict=True):
            assert torch.equal(ours, theirs)
    cache.remove()
    assert 'forward' not in vars(backbone)


def test_a_fingerprint_is_of_weights_settings_and_type():
    def found(stored='int8', layers=(-1,), change=False, **options):
        torch.manual_seed(0)
        kind = 'mmlowrank.SwinPartial'
        backbone = swins.build('mmdet', kind, layers=layers, **options)
        if change:
            backbone.stages[0].blocks[0].norm1.bias.data[0] += 1
        base = base_of(backbone.tuner)
        return fingerprint_of(FrozenPart(backbone.tuner), base, stored)

    prints = [
        found(),
        found(change=True),
        found('float16'),
        found(layers=[-1, -2]),
        found(out_indices=(0, 3)),
        # With which all weights keep their shapes.
        found(num_heads=(2, 2, 2, 4), window_size=4, qkv_bias=True),
    ]
    assert len({*prints}) == len(prints)
    assert found() == prints[0]


@pytest.fixture
def trained(digit_scenes, digit_swin, tmp_path, monkeypatch):
    """Train a small Mask R-CNN; returns its weights and what was logged."""
    monkeypatch.setenv('DIGIT_SCENES', str(digit_scenes))
    monkeypatch.setenv('DIGIT_SWIN', str(digit_swin))
    config = 'mask-rcnn_swin-mini_fixed_800it_digits.py'

    def train(hook, steps=4, flip=0.0, **options):
        cfg = Config.fromfile(ROOT / 'configs' / 'quickstart' / config)
        cfg.merge_from_dict(options)
        cfg.train_cfg.max_iters = steps
        cfg.train_dataloader.batch_size = 2
        cfg.train_dataloader.dataset.indices = 4
        pipeline = cfg.train_dataloader.dataset.pipeline
        pipeline.insert(2, dict(type='RandomFlip', prob=flip))
        name = f'run{len([*tmp_path.glob("run*")])}'
        cfg.work_dir, cfg.experiment_name = str(tmp_path / name), name
        cfg.default_hooks.checkpoint = None
        cfg.visualizer = dict(type='Visualizer', vis_backends=[])
        cfg.custom_hooks += hook
        runner = Runner.from_cfg(cfg)
        model = runner.train()
        assert 'forward' not in vars(model.backbone)
        log = Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
        return model.state_dict(), log

    return train


def test_a_run_learns_the_same_from_disk(trained, tmp_path):
    kind, folder = 'mmlowrank.FeatureCacheHook', str(tmp_path / 'features')
    hook = [dict(type=kind, folder=folder, limit='1GB', stored='float32')]
    stock, _ = trained([])
    first, text = trained(hook)
    assert '0 of 4 images read, 4 computed' in text
    assert '4 of 4 images read, 0 computed' in text
    for name, tensor in stock.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-4)
    second, text = trained(hook)
    assert '0 computed' in text and '4 images are there' in text
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name


def test_a_random_pipeline_is_told(trained, tmp_path):
    folder = str(tmp_path / 'features')
    hook = [dict(type='mmlowrank.FeatureCacheHook', folder=folder)]
    _, text = trained(hook, flip=0.5)
    assert 'views of pass 2 were new' in text
    tiny = [dict(hook[0], limit='300KB', folder=folder + '2')]
    _, text = trained(tiny, steps=2)
    assert 'is full with the features of 1 images' in text


def test_a_model_without_a_frozen_trunk_is_refused(tmp_path):
    lora = swins.build('mmdet', 'mmlowrank.SwinLoRA', rank=2)
    for model, reason in (
        (torch.nn.ModuleDict(dict(backbone=lora)), 'tuner: LoRA adds modules'),
        (torch.nn.Linear(2, 2), 'has no tuner'),
    ):
        runner = SimpleNamespace(model=model)
        with pytest.raises(RuntimeError, match=reason):
            FeatureCacheHook(str(tmp_path)).before_train(runner)


@pytest.mark.parametrize('stored', ['float16', 'int8'])
def test_rounded_features_are_the_same_computed_and_read(stored, tmp_path):
    stock = swins.build('mmdet', 'mmlowrank.SwinPartial')
    ours = copy.deepcopy(stock)
    cache, x = cached(ours, tmp_path, stored), swins.images()
    computed, read, exact = (step(b, x)[0] for b in (ours, ours, stock))
    assert cache.read == cache.computed == 2
    for one, other, stock_one in zip(computed, read, exact, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, stock_one)
        torch.testing.assert_close(one, stock_one, rtol=0, atol=0.05)


def test_the_tool_measures(trained, tool):
    options = '--images 4 --passes 2 --stored int8 --blocks 1 --size 96'
    out = tool('measure_feature_cache.py', *options.split())
    rows = [line.split('|') for line in out.splitlines() if line[:1] == '|']
    assert [row[1].strip() for row in rows[2:]] == ['none', 'int8']
    assert len({len(row) for row in rows}) == 1
