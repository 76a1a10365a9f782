"""What the RLRR recipes do: rates, decay, first state of the head, losses."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import (
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    PARAM_SCHEDULERS,
    DefaultScope,
)
from mmpretrain.structures import DataSample

from mmlowrank.analysis import paper_tables

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def load(stem: str, **environment: str) -> Config:
    return paper_tables.load(CONFIGS, f'rlrr/{stem}', **environment)


def small(stem: str, **environment: str) -> Config:
    """The config with a ViT of one block of width 8, from scratch."""
    cfg = load(stem, **environment)
    arch = dict(
        embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16
    )
    cfg.model.backbone.backbone.update(arch=arch, img_size=32, init_cfg=None)
    cfg.model.head.update(in_channels=8)
    return cfg


@pytest.mark.parametrize(
    ('data', 'epochs'),
    [('CUB_200_2011', 60), ('StanfordDogs', 60), ('CUB_200_2011', 110)],
)
def test_warm_restarts_in_every_epoch(data, epochs):
    """mmengine's own scheduler, shifted by one epoch."""
    augreg = epochs == 110
    model = 'vit-b-p16-augreg' if augreg else 'vit-b-p16'
    cfg = load(f'{model}_rlrr_{epochs}e_fgvc', FGVC_NAME=data)
    assert cfg.param_scheduler.end == epochs
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = PARAM_SCHEDULERS.build(
        cfg.param_scheduler,
        default_args=dict(optimizer=optimizer),
    )
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    starts = [1, 11, 31, 71, 151] if augreg else [*range(1, 62, 5)]
    for epoch, rate in enumerate(rates):
        begin, end = next(
            pair for pair in pairwise(starts) if max(epoch, 1) < pair[1]
        )
        turn = torch.pi * (max(epoch, 1) - begin) / (end - begin)
        expected = 1 + torch.cos(torch.tensor(turn, dtype=torch.float64))
        assert rate == pytest.approx(float(expected), rel=1e-12)
    if augreg:
        assert rates[-1] == pytest.approx(2 * 0.54, rel=0.01)


def test_decay_is_that_of_the_authors_code():
    """Scales, head weight and the patch's scale and shift; nothing else."""
    cfg = small('vit-b-p16_rlrr_110e_vtab1k', VTAB_TASK='kitti')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
        constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(
            cfg.optim_wrapper.constructor
        )
        options = cfg.optim_wrapper.to_dict()
        paramwise = options.pop('paramwise_cfg')
        options.pop('constructor')
        wrapper = constructor(options, paramwise)(model)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {
        names[id(p)]
        for group in wrapper.optimizer.param_groups
        for p in group['params']
        if group['weight_decay']
    }
    assert {group['lr'] for group in wrapper.optimizer.param_groups} == {3e-3}
    tuner = 'backbone.tuner'
    assert decayed == {
        'head.layers.head.weight',
        f'{tuner}.patch.scale',
        f'{tuner}.patch.shift',
        *(
            f'{tuner}.blocks.0.{layer}.scale_{side}'
            for layer in ('qkv', 'proj', 'fc1', 'fc2')
            for side in ('left', 'right')
        ),
    }
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    undecayed = {name.rpartition('.')[2] for name in trained - decayed}
    assert undecayed == {'shift', 'scale', 'bias'}


def test_the_head_starts_at_zero_or_small():
    for stem, std in (
        ('vit-b-p16_rlrr_110e_vtab1k', 0.0),
        ('swin-b_rlrr_110e_vtab1k', 0.02),
    ):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            head = MODELS.build(load(stem, VTAB_TASK='sun397').model.head)
        torch.manual_seed(0)
        head.init_weights()
        weight, bias = head.parameters()
        assert weight.std().item() == pytest.approx(std, rel=0.01)
        assert not bias.any()


def test_mixed_batches_give_a_loss():
    """The data preprocessor must know the number of classes."""
    cfg = small('vit-b-p16-augreg_rlrr_110e_fgvc', FGVC_NAME='StanfordDogs')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(cfg.model, data_preprocessor=cfg.data_preprocessor)
        )
    model.init_weights()
    batch = dict(
        inputs=[torch.zeros(3, 32, 32, dtype=torch.uint8)] * 2,
        data_samples=[DataSample().set_gt_label(label) for label in (3, 119)],
    )
    data = model.data_preprocessor(batch, training=True)
    score = data['data_samples'][0].gt_score
    assert score.shape == (120,)
    losses = model(**data, mode='loss')
    # A head of zeros says 1 / 120 to every class, whatever the target.
    expected = torch.log(torch.tensor(120.0))
    torch.testing.assert_close(losses['loss'], expected)


def test_a_swin_classifier_gets_the_last_norm_of_microsofts_file(tmp_path):
    """There it is 'norm'; detectors leave it out, mmpretrain has 'norm3'."""
    swin = dict(
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]),
        pad_small_map=True,
    )
    last = torch.linspace(0.5, 2, 64)
    path = tmp_path / 'swin.pth'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        stock = MODELS.build(swin)
        names = {'attn.w_msa': 'attn', 'ffn.layers.0.0': 'mlp.fc1'}
        names |= {'ffn.layers.1': 'mlp.fc2', 'stages': 'layers'}
        names |= {'patch_embed.projection': 'patch_embed.proj'}
        theirs = {'norm.weight': last, 'norm.bias': -last}
        for key, value in stock.state_dict().items():
            for ours, name in names.items():
                key = key.replace(ours, name)
            if not key.startswith('norm3.'):
                theirs[key] = value
        torch.save(dict(model=theirs), path)
        cfg = load('swin-b_rlrr_110e_vtab1k').model.backbone.to_dict()
        pretrained = dict(type='Pretrained', checkpoint=str(path))
        cfg['backbone'] = dict(swin, init_cfg=pretrained)
        tuned = MODELS.build(cfg)
    tuned.init_weights()
    assert torch.equal(tuned.norm3.weight, last)
    assert torch.equal(tuned.norm3.bias, -last)
