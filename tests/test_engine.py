"""Optimizer groups, freezing and the audit, on a small made-up model."""

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from swins import build, images, stir
from torch import nn

from mmlowrank.analysis.measuring import saved_for_backward
from mmlowrank.engine import FreezeAuditHook
from mmlowrank.engine.freeze_audit import audit_table
from mmlowrank.tuners import freeze_matching


class Model(nn.Module):
    """A tuned backbone, a neck with BN, a head."""

    def __init__(self, tuner='mmlowrank.SwinLoRand', **kwargs):
        super().__init__()
        self.backbone = build('mmdet', tuner, **kwargs)
        self.neck = nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        first, *others = self.backbone(x)
        logits = self.head(self.neck(first).mean((2, 3)))
        return logits + sum(out[:, :3].mean((2, 3)) for out in others)


def construct(model, lr=0.1, weight_decay=0.5, scope='mmdet', **kwargs):
    with DefaultScope.overwrite_default_scope(scope):
        return OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(
                type='mmlowrank.TunerOptimWrapperConstructor',
                optim_wrapper_cfg=dict(
                    type='OptimWrapper',
                    optimizer=dict(
                        type='AdamW', lr=lr, weight_decay=weight_decay
                    ),
                    **{k: v for k, v in kwargs.items() if k == 'freeze'},
                ),
                paramwise_cfg=kwargs.get('paramwise_cfg'),
            )
        )(model)


def options(model, optim_wrapper):
    """Return name -> (lr, weight_decay) of what is in the optimizer."""
    groups = {
        id(p): (group['lr'], group['weight_decay'])
        for group in optim_wrapper.param_groups
        for p in group['params']
    }
    return {
        name: groups[id(p)]
        for name, p in model.named_parameters()
        if id(p) in groups
    }


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_optimizer_has_exactly_the_trainable(scope):
    model = Model(rank=4)
    found = options(model, construct(model, scope=scope))
    assert found.keys() == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    assert not any('norm' in n for n in found if n.startswith('backbone.s'))


def test_no_decay_on_norms_biases_and_position_tables():
    model = Model('mmlowrank.SwinFull')
    wrapper = construct(model)
    # Two groups, and the one mmengine adds to remember the base settings.
    assert len(wrapper.param_groups) == 3
    assert wrapper.param_groups[2]['params'][0].ndim == 0
    for name, (lr, decay) in options(model, wrapper).items():
        table = name.endswith('relative_position_bias_table')
        flat = model.get_parameter(name).ndim == 1
        assert decay == (0.0 if flat or table else 0.5), name
        assert lr == 0.1


def test_decay_multipliers():
    model = Model('mmlowrank.SwinFull')
    multipliers = dict(
        norm_decay_mult=0.1, bias_decay_mult=0.2, position_decay_mult=0.3
    )
    found = options(model, construct(model, paramwise_cfg=multipliers))
    block = 'backbone.stages.0.blocks.0'
    assert found[f'{block}.norm1.bias'][1] == pytest.approx(0.05)
    assert found['head.bias'][1] == pytest.approx(0.1)
    table = f'{block}.attn.w_msa.relative_position_bias_table'
    assert found[table][1] == pytest.approx(0.15)
    assert found['head.weight'][1] == 0.5


def test_custom_keys_change_only_what_they_name():
    model = Model('mmlowrank.SwinFull')
    keys = {
        'backbone': dict(lr_mult=0.5),
        'backbone.norm': dict(lr_mult=2.0, decay_mult=1.0),
    }
    wrapper = construct(model, paramwise_cfg=dict(custom_keys=keys))
    found = options(model, wrapper)
    projection = 'backbone.patch_embed.projection'
    assert found[f'{projection}.weight'] == (0.05, 0.5)
    assert found[f'{projection}.bias'] == (0.05, 0.0)
    assert found['backbone.norm0.weight'] == (0.2, 0.5)
    assert found['head.weight'] == (0.1, 0.5)


def test_unknown_option_is_refused():
    with pytest.raises(ValueError, match=r'biass_decay_mult.*knows'):
        construct(Model(rank=4), paramwise_cfg=dict(biass_decay_mult=0))


def test_freeze_by_regex():
    model = Model(rank=4)
    found = options(model, construct(model, freeze=[r'neck\.1', 'head']))
    assert {n for n in found if not n.startswith('backbone')} == {
        'neck.0.weight',
        'neck.0.bias',
    }


def test_freeze_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'nek'.*backbone, neck, head"):
        freeze_matching(Model(rank=4), ['nek'])


def test_freeze_of_what_a_tuner_trains_is_refused():
    with pytest.raises(ValueError, match=r'backbone\.tuner.*trains'):
        freeze_matching(Model(rank=4), ['backbone'])


def test_nothing_to_train_is_refused():
    with pytest.raises(RuntimeError, match='none of the'):
        construct(Model('mmlowrank.SwinFixed'), freeze=['neck', 'head'])


@pytest.mark.parametrize(
    'name, value',
    [
        ('backbone.norm0.weight', True),
        ('backbone.tuner.stages.0.0.attn.K', False),
    ],
)
def test_a_changed_contract_is_refused_by_name(name, value):
    model = Model(rank=4)
    model.get_parameter(name).requires_grad_(value)
    with pytest.raises(RuntimeError, match=name.split('.', 1)[1]):
        construct(model)


def runner_of(model, **cfg):
    return SimpleNamespace(
        model=model,
        cfg=ConfigDict(cfg),
        optim_wrapper=construct(model),
        logger=logging.getLogger('audit'),
    )


def heard(name):
    """Return the list that what mmengine logs from now on is put in."""
    logger = MMLogger.get_instance(name, logger_name=name)
    messages = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    return messages


def step(runner, loss):
    runner.optim_wrapper.update_params(loss)


def test_audit_passes_and_leaves_no_hook():
    runner, hook = runner_of(Model(rank=4)), FreezeAuditHook()
    hook.before_run(runner)
    hook.before_train(runner)
    step(runner, runner.model(images()).square().sum())
    hook.after_train_iter(runner, 0)
    assert not hook._handles
    assert not hook._waiting


def test_audit_names_what_got_no_gradient():
    runner, hook = runner_of(Model(rank=4)), FreezeAuditHook()
    hook.before_train(runner)
    outs = runner.model.backbone(images())
    neck = runner.model.neck(outs[0]).square().sum()
    step(runner, neck + sum(out.square().sum() for out in outs))
    expected = '2 trainable .*: head.bias, head.weight'
    with pytest.raises(RuntimeError, match=expected):
        hook.after_train_iter(runner, 0)


@pytest.mark.parametrize(
    'paths', ['backbone', ['neck', 'backbone.stages.2', 'head']]
)
def test_checkpointing_of_the_config_is_taken_over(paths):
    """mmengine would do it in the re-entrant way, after this hook."""
    plain, model = Model(rank=4), Model(rank=4)
    model.load_state_dict(plain.state_dict())
    stir(plain.backbone), stir(model.backbone)
    runner = runner_of(model, activation_checkpointing=paths)
    FreezeAuditHook().before_run(runner)
    assert 'activation_checkpointing' not in runner.cfg
    kept = []
    for one in (plain, model):
        with saved_for_backward(one) as saved:
            one(images()).square().sum().backward()
        kept.append(sum(saved.values()))
    assert kept[1] < kept[0]
    for name, parameter in plain.named_parameters():
        grad = model.get_parameter(name).grad
        if parameter.requires_grad:
            torch.testing.assert_close(grad, parameter.grad, msg=name)
        else:
            assert grad is None


def test_checkpointing_leaves_a_trunk_alone_that_keeps_nothing():
    model = Model('mmlowrank.SwinE3VA', rank=4)
    runner = runner_of(model, activation_checkpointing='backbone.stages.1')
    messages = heard('alone')
    FreezeAuditHook().before_run(runner)
    assert 'E3VA keeps nothing of its trunk' in messages[0]
    assert 'forward' not in vars(model.backbone.stages[1])


def test_audit_table_counts():
    model = Model(rank=4)
    model.neck[0].requires_grad_(False)
    optimized = {id(p) for p in model.parameters() if p.requires_grad}
    lines = {
        line[:28].strip(): [int(n.replace(',', '')) for n in line[28:].split()]
        for line in audit_table(model, optimized).splitlines()[1:]
    }
    tuner = sum(p.numel() for p in model.backbone.tuner.parameters())
    stock = sum(p.numel() for p in model.backbone.parameters()) - tuner
    assert lines['backbone (stock)'] == [0, stock, 0, 0]
    assert lines['backbone.tuner (LoRand)'] == [tuner, 0, tuner, 0]
    assert lines['neck'] == [16, 136, 16, 1]
    assert lines['head'] == [27, 0, 27, 0]
    assert lines['total'] == [
        tuner + 43,
        stock + 136,
        tuner + 43,
        1,
    ]


def test_summary_is_one_line():
    messages = heard('one_line')
    construct(Model(rank=4))
    (message,) = messages
    assert message.startswith('Training ')


def test_statistics_of_a_frozen_neck_do_not_move():
    model = Model('mmlowrank.SwinFixed')
    construct(model, freeze=['neck'])
    model.train()
    before = model.neck[1].running_mean.clone()
    with torch.no_grad():
        model(images())
    assert torch.equal(before, model.neck[1].running_mean)


@pytest.mark.parametrize('tuner', ['RLRR', 'SSF', 'ARC', 'BitFit'])
def test_roles_under_a_schedule_that_decays_biases(tuner):
    """As detection schedules do; scales of norms would shrink to zero."""
    model = Model(f'mmlowrank.Swin{tuner}')
    multiples = dict(norm_decay_mult=0.25, bias_decay_mult=0.5)
    wrapper = construct(model, weight_decay=1.0, paramwise_cfg=multiples)
    expected = {'scale': 0.25, 'shift': 0.5, 'bias': 0.5}
    for name, (_, decay) in options(model, wrapper).items():
        part, _, last = name.rpartition('.')
        if 'norm' in part or part == 'neck.1':
            assert decay == 0.25, name
        elif last == 'relative_position_bias_table':
            assert decay == 0, name
        else:
            assert decay == expected.get(last, 1.0), name


def test_a_teacher_that_is_frozen_as_a_whole_is_accepted():
    model = nn.ModuleDict(dict(student=Model(rank=4), teacher=Model(rank=4)))
    model['teacher'].requires_grad_(False)
    found = options(model, construct(model))
    assert found.keys() == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    assert all(name.startswith('student.') for name in found)
    next(iter(model['teacher'].backbone.tuner.parameters())).requires_grad_()
    with pytest.raises(RuntimeError, match='is frozen, but the tuner LoRand'):
        construct(model)


def test_the_audit_reads_statistics_in_train_mode():
    model = Model(rank=4).eval()
    runner = runner_of(model)
    seen = []
    runner.logger = SimpleNamespace(info=seen.append)
    FreezeAuditHook().before_train(runner)
    assert model.training
    assert seen[0].splitlines()[-1].split()[-1] == '1'
