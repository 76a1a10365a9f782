"""Several E3VA tasks off one trunk."""

import copy

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope
from swins import ARGS, FRAMEWORKS, build, images, stir
from test_tuned_backbone import microsoft, pretrained
from torch import nn

from mmlowrank import save_adapter
from mmlowrank.checkpoint.merge import merge
from mmlowrank.tuners import CannotMerge

every = pytest.mark.parametrize('framework', FRAMEWORKS)
TASKS = {
    'instances': dict(rank=4),
    'semantics': dict(rank=2, fpn_input='sum'),
    'boxes': dict(adapter='standard', structure='stacked'),
}


def single(framework, seed, options):
    """A task's own backbone: same trunk, trained highway and norms."""
    torch.manual_seed(0)
    backbone = build(framework, 'mmlowrank.SwinE3VA', **options)
    stir(backbone, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in backbone.named_parameters():
        if name.startswith('norm'):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.1 * noise
    backbone.eval()  # stock Swins return None here
    return backbone


def save(backbone, path):
    state_dict = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    state_dict['bbox_head.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=state_dict), path)
    return str(path)


def joined(framework, tasks, **kwargs):
    backbone = dict(
        ARGS[framework],
        type='SwinTransformer',
        window_size=4,
        drop_path_rate=0.0,
        **kwargs,
    )
    with DefaultScope.overwrite_default_scope(framework):
        return MODELS.build(
            dict(
                type='mmlowrank.MultiTaskE3VA', backbone=backbone, tasks=tasks
            )
        )


def trained(framework, tmp_path):
    alone, tasks = {}, {}
    for seed, (name, options) in enumerate(TASKS.items()):
        alone[name] = single(framework, seed, options)
        path = save(alone[name], tmp_path / f'{name}.pth')
        tasks[name] = dict(options, checkpoint=path)
    return alone, joined(framework, tasks)


@every
def test_each_task_is_bit_equal_and_the_trunk_runs_once(framework, tmp_path):
    alone, together = trained(framework, tmp_path)
    together.eval()
    calls = []
    together.trunk.stages[2].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        features = together(images())
        assert len(calls) == 1
        assert features.keys() == TASKS.keys()
        for name, backbone in alone.items():
            expected = backbone(images())
            for one, other in zip(features[name], expected, strict=True):
                assert torch.equal(one, other), name


def total(model):
    """Return a scalar of all outputs of all tasks."""
    return sum(
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
        for outs in model(images()).values()
        for out in outs
    )


@every
def test_gradients_own_their_memory(framework, tmp_path):
    """So that clipping, scaling and accumulation act on each once."""
    _, together = trained(framework, tmp_path)
    owned = [p for p in together.parameters() if p.requires_grad]
    total(together).backward()
    once = [p.grad.clone() for p in owned]
    storages = {p.grad.untyped_storage().data_ptr() for p in owned}
    assert len(storages) == len(owned)
    total(together).backward()
    for parameter, grad in zip(owned, once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * grad)
        parameter.grad = None
    scaler = torch.amp.GradScaler('cpu')
    optimizer = torch.optim.SGD(owned, lr=1.0)
    scaler.scale(total(together)).backward()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(owned, 1.0)
    for parameter, grad in zip(owned, once, strict=True):
        torch.testing.assert_close(
            parameter.grad, grad / norm, rtol=1e-4, atol=1e-6
        )


@every
def test_all_tasks_train_and_the_trunk_does_not(framework, tmp_path):
    _, together = trained(framework, tmp_path)
    together.train()
    assert not together.trunk.training
    total(together).backward()
    for name, parameter in together.named_parameters():
        assert parameter.requires_grad != name.startswith('trunk.')
        assert (parameter.grad is None) != parameter.requires_grad, name


def test_another_trunk_is_refused(tmp_path):
    first = single('mmdet', 1, dict(rank=4))
    other = single('mmdet', 2, dict(rank=4))
    other.stages[1].blocks[0].norm1.weight.data += 1
    tasks = {
        'a': dict(rank=4, checkpoint=save(first, tmp_path / 'a.pth')),
        'b': dict(rank=4, checkpoint=save(other, tmp_path / 'b.pth')),
    }
    expected = r'b\.pth .*another trunk.*stages\.1\.blocks\.0\.norm1'
    with pytest.raises(ValueError, match=expected):
        joined('mmdet', tasks)


@pytest.mark.parametrize(
    'options', [dict(rank=8), dict(adapter='standard')], ids=str
)
def test_other_arguments_are_refused(tmp_path, options):
    path = save(single('mmdet', 1, dict(rank=4)), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r"a\.pth.*task 'a'"):
        joined('mmdet', {'a': dict(options, checkpoint=path)})


def test_unknown_task_and_no_task_are_refused():
    with pytest.raises(KeyError, match="no task 'b'"):
        joined('mmdet', {'a': dict(rank=4)}).load_task('b', 'x.pth')
    with pytest.raises(ValueError, match='at least one'):
        joined('mmdet', {})


def start(backbone):
    """Initialise as a detector does with its backbone."""
    parent = BaseModule()
    parent.backbone = backbone
    parent.init_weights()


def same(one, other):
    """Whether two modules of one kind have equal tensors."""
    theirs = other.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in one.state_dict().items())


def pretrained_norm(framework, path):
    """Pretrained weights, with an output norm that is not 1 and 0."""
    _, init_cfg = pretrained(framework, path)
    saved = torch.load(path)
    saved['state_dict']['backbone.norm3.weight'] += 0.5
    torch.save(saved, path)
    return init_cfg


@every
def test_the_trunk_is_loaded_from_init_cfg(framework, tmp_path):
    """And new tasks start as their single-task models do."""
    init_cfg = pretrained_norm(framework, tmp_path / 'swin.pth')
    options = {
        'a': dict(rank=4),
        'b': dict(rank=4, reduction='trainable', train_fpn_norms=False),
    }
    torch.manual_seed(5)
    together = joined(framework, options, init_cfg=init_cfg)
    start(together)
    together.eval()
    for name, arguments in options.items():
        alone = build(
            framework, 'mmlowrank.SwinE3VA', init_cfg=init_cfg, **arguments
        )
        alone.init_weights()
        alone.eval()
        with torch.no_grad():
            for one, other in zip(
                together(images())[name], alone(images()), strict=True
            ):
                assert torch.equal(one, other), name


@every
def test_microsoft_files_fill_the_trunk(framework, tmp_path):
    torch.manual_seed(3)
    source = build(framework, 'SwinTransformer')
    path = tmp_path / 'swin_22k.pth'
    torch.save(dict(model=microsoft(source.state_dict())), path)
    together = joined(
        framework,
        {'a': dict(rank=4)},
        convert_weights=True,
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    start(together)
    assert same(source.stages, together.trunk.stages)


@every
def test_a_checkpoint_of_something_else_is_refused(framework, tmp_path):
    path = tmp_path / 'resnet.pth'
    torch.save(dict(state_dict={'backbone.conv1': torch.zeros(1)}), path)
    together = joined(
        framework,
        {'a': dict(rank=4)},
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    with pytest.raises(ValueError, match=r'resnet\.pth is not a Swin'):
        start(together)


@every
def test_init_weights_keeps_the_trunk_of_the_tasks(framework, tmp_path):
    alone, together = trained(framework, tmp_path)
    start(together)
    assert same(together.trunk.stages, alone['boxes'].stages)


def test_init_cfg_and_tasks_must_agree_on_the_trunk(tmp_path):
    init_cfg = pretrained_norm('mmdet', tmp_path / 'swin.pth')
    right = build('mmdet', 'mmlowrank.SwinE3VA', rank=4, init_cfg=init_cfg)
    right.init_weights()
    right = save(right, tmp_path / 'right.pth')
    wrong = save(single('mmdet', 1, dict(rank=4)), tmp_path / 'wrong.pth')

    def both(path):
        tasks = {'a': dict(rank=4, checkpoint=path), 'b': dict(rank=4)}
        return joined('mmdet', tasks, init_cfg=init_cfg)

    together = both(right)
    start(together)
    assert together.tasks['b'].norms['norm3'].weight.eq(1.5).all()
    with pytest.raises(ValueError, match=r'wrong\.pth .*swin\.pth.*init_cfg'):
        start(both(wrong))
    together = joined('mmdet', {'a': dict(rank=4)}, init_cfg=init_cfg)
    start(together)
    with pytest.raises(ValueError, match=r'wrong\.pth .*swin\.pth'):
        together.load_task('a', wrong)
    together.load_task('a', right)


@every
def test_fixed_norms_stay_fixed(framework, tmp_path):
    options = dict(rank=4, train_fpn_norms=False)
    alone = single(framework, 1, options)
    path = save(alone, tmp_path / 'a.pth')
    together = joined(
        framework,
        {
            'a': dict(options, checkpoint=path),
            'b': dict(options, reduction='trainable'),
            'c': dict(rank=4),
        },
    )
    for name in 'abc':
        norms = together.tasks[name].norms
        # Those of a are the trunk's, so b and c start from them.
        assert all(same(norms[key], getattr(alone, key)) for key in norms)
        trains = {p.requires_grad for p in norms.parameters()}
        assert trains == {name == 'c'}


def test_stochastic_depth_of_one_task_is_refused():
    tasks = {'a': dict(rank=4), 'b': dict(rank=4, stochastic_trunk=True)}
    with pytest.raises(ValueError, match=r"task 'b'.*stochastic_trunk"):
        joined('mmdet', tasks)


@every
def test_new_tasks_inherit_the_trunk_that_a_checkpoint_fills(
    framework, tmp_path
):
    path = save(single(framework, 1, dict(rank=4)), tmp_path / 'a.pth')
    torch.manual_seed(5)
    tasks = {'a': dict(rank=4), 'b': dict(rank=4, reduction='trainable')}
    together = joined(framework, tasks)
    together.load_task('a', path)
    trunk, task = together.trunk, together.tasks['b']
    for i, merging in enumerate(task.highway.merging):
        assert same(merging, trunk.stages[i].downsample)
    # The trunk keeps its own norms, because a trained those of the file.
    for name, norm in task.norms.items():
        assert same(norm, getattr(trunk, name))


def test_a_checkpoint_of_all_tasks_counts_as_theirs(tmp_path):
    """What it filled is neither inherited anew nor given another trunk."""
    options = dict(rank=4, reduction='trainable')
    first = single('mmdet', 1, options)
    path = save(first, tmp_path / 'a.pth')
    tasks = {'a': options, 'b': options}
    source = joined('mmdet', tasks)
    source.load_task('a', path)
    for parameter in source.tasks['b'].parameters():
        parameter.data += 1
    together = joined('mmdet', tasks)
    together.load_state_dict(source.state_dict())
    together.load_task('a', path)
    assert same(together, source)
    together = joined('mmdet', tasks)
    together.load_state_dict(source.state_dict())
    first.stages[0].blocks[0].norm1.weight.data += 1
    other = save(first, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth .*another trunk'):
        together.load_task('a', other)


def test_a_deep_copy_stands_alone(tmp_path):
    path = save(single('mmdet', 1, dict(rank=4)), tmp_path / 'a.pth')
    options = dict(rank=4, reduction='trainable')
    together = joined('mmdet', {'a': dict(rank=4), 'b': options, 'c': options})
    before = copy.deepcopy(together.state_dict())
    other = copy.deepcopy(together)
    other.load_task('a', path)
    merging = other.tasks['c'].highway.merging[0]
    assert same(merging, other.trunk.stages[0].downsample)
    # Hooks would bring copies of the highways made before.
    assert not merging._forward_hooks
    for name, value in together.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_merging_is_refused():
    with pytest.raises(CannotMerge, match='highways'):
        merge(joined('mmdet', {'a': dict(rank=4)}))


class Detector(nn.Module):
    """What has a backbone and something of its own."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


@every
def test_tasks_come_from_adapter_files(framework, tmp_path):
    init_cfg = pretrained_norm(framework, tmp_path / 'swin.pth')
    alone, tasks = {}, {}
    for seed, (name, options) in enumerate(TASKS.items()):
        backbone = build(
            framework, 'mmlowrank.SwinE3VA', init_cfg=init_cfg, **options
        )
        backbone.init_weights()
        stir(backbone, seed)
        alone[name] = backbone
        backbone.eval()
        file = tmp_path / f'{name}.safetensors'
        save_adapter(Detector(backbone), file)
        tasks[name] = dict(options, checkpoint=str(file))
    torch.manual_seed(9)
    together = joined(framework, tasks, init_cfg=init_cfg)
    together.eval()
    with torch.no_grad():
        features = together(images())
        for name, backbone in alone.items():
            expected = backbone(images())
            for one, other in zip(features[name], expected, strict=True):
                assert torch.equal(one, other), name
    with pytest.raises(ValueError, match='no trunk: name the trunk'):
        joined(framework, tasks)
    other = torch.load(init_cfg['checkpoint'])
    other['state_dict']['backbone.patch_embed.projection.bias'] += 1e-3
    torch.save(other, init_cfg['checkpoint'])
    with pytest.raises(ValueError, match='was trained on another trunk'):
        joined(framework, tasks, init_cfg=init_cfg)
