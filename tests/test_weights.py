"""A frozen random trunk is noticed, whichever way weights come."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from swins import ARGS, FRAMEWORKS, VIT, build, images, loss
from test_engine import Model, heard, runner_of
from torch import nn

from mmlowrank.engine import FreezeAuditHook

every = pytest.mark.parametrize('framework', FRAMEWORKS)
RANDOM = 'at their random start'


def swin(framework, **kwargs):
    return build(framework, 'mmlowrank.SwinLoRand', rank=4, **kwargs)


def step(backbone):
    backbone.train()
    loss(backbone, images()).backward()


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Return framework -> file of a whole model around its Swin."""
    folder, paths = tmp_path_factory.mktemp('weights'), {}
    for framework in FRAMEWORKS:
        torch.manual_seed(3)
        stock = build(framework, 'SwinTransformer')
        for parameter in stock.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
        paths[framework] = str(folder / f'{framework}.pth')
        torch.save(
            {f'backbone.{k}': v for k, v in stock.state_dict().items()},
            paths[framework],
        )
    return paths


def pretrained(path):
    return dict(type='Pretrained', checkpoint=path)


def same_as_file(backbone, path):
    return all(
        torch.equal(backbone.state_dict()[k.removeprefix('backbone.')], v)
        for k, v in torch.load(path).items()
    )


@every
@pytest.mark.parametrize(
    'way',
    ['init_cfg', 'a list', 'pretrained', 'twice', 'load_from', 'by hand'],
)
def test_loaded_is_loaded(framework, way, files):
    """Nothing is said, by a second init_weights neither."""
    path = files[framework]
    messages = heard(f'{framework} {way}')
    options = {
        'init_cfg': dict(init_cfg=pretrained(path)),
        'a list': dict(
            init_cfg=[
                dict(type='TruncNormal', layer='Linear', std=0.02),
                pretrained(path),
            ]
        ),
        'pretrained': dict(pretrained=path, convert_weights=True),
    }
    options['twice'] = options['init_cfg']
    backbone = swin(framework, **options.get(way, {}))
    if way == 'load_from':
        model = nn.Module()
        model.backbone = backbone
        load_checkpoint(model, path, strict=False)
    elif way == 'by hand':
        for key, value in torch.load(path).items():
            key = key.removeprefix('backbone.')
            backbone.state_dict()[key].data.copy_(value)
    else:
        backbone.init_weights()
    if way == 'twice':
        backbone.init_weights()
    step(backbone)
    step(copy.deepcopy(backbone))
    assert same_as_file(backbone, path)
    assert not any(RANDOM in message for message in messages)


@every
def test_no_weights_at_all_is_said_once(framework):
    messages = heard(f'{framework} none')
    backbone = swin(framework)
    backbone.init_weights()
    step(backbone)
    step(backbone)
    said = [message for message in messages if RANDOM in message]
    assert len(said) == 1
    assert 'frozen' in said[0] and 'init_cfg' in said[0]


def test_full_tuning_from_scratch_is_nobodys_business():
    messages = heard('full')
    backbone = build('mmdet', 'mmlowrank.SwinFull')
    backbone.init_weights()
    step(backbone)
    assert not any(RANDOM in message for message in messages)


@every
@pytest.mark.parametrize('drawn_again', [True, False])
def test_a_file_in_which_nothing_fits_is_refused(
    framework, drawn_again, files, tmp_path
):
    """load_from and resume warn and go on; the first iteration does not."""
    weights = torch.load(files[framework])
    path = str(tmp_path / 'other.pth')
    torch.save({f'model.{k}': v for k, v in weights.items()}, path)
    model = nn.Module()
    model.backbone = swin(framework)
    if drawn_again:
        model.backbone.init_weights()
    step(model.backbone)  # a warning, so far
    load_checkpoint(model, path, strict=False)
    for one in (model, model, copy.deepcopy(model)):
        with pytest.raises(RuntimeError, match=f'{RANDOM}.*the path'):
            step(one.backbone)


def test_the_audit_refuses_before_the_first_iteration(tmp_path):
    path = str(tmp_path / 'head.pth')
    model = Model(rank=4)
    torch.save({'head.bias': model.head.bias}, path)
    load_checkpoint(model, path, strict=False)
    with pytest.raises(RuntimeError, match='checkpoint that was loaded'):
        FreezeAuditHook().before_train(runner_of(model))


@every
def test_one_missing_frozen_tensor_is_named(framework, files, tmp_path):
    weights = torch.load(files[framework])
    missing = 'stages.1.blocks.0.attn.w_msa.proj.weight'
    del weights[f'backbone.{missing}']
    path = str(tmp_path / 'partial.pth')
    torch.save(weights, path)
    backbone = swin(framework, init_cfg=pretrained(path))
    with pytest.raises(RuntimeError) as refused:
        backbone.init_weights()
    assert f'{path} left 1 tensors' in str(refused.value)
    assert missing in str(refused.value)


def test_statistics_count_and_plain_norms_do_not(tmp_path):
    cfg = dict(
        type='mmlowrank.TunedBackbone',
        backbone=dict(type='ResNet', depth=18, base_channels=4),
        tuner=dict(type='Fixed'),
    )
    cfg['backbone'].update(stem_channels=4)
    with DefaultScope.overwrite_default_scope('mmdet'):
        backbone = MODELS.build(copy.deepcopy(cfg))
    path = str(tmp_path / 'resnet.pth')
    for kept, fine in (
        (lambda name: 'num_batches' not in name, True),
        (lambda name: 'bn1.weight' not in name, True),
        (lambda name: 'running_var' not in name, False),
    ):
        state_dict = backbone.state_dict()
        torch.save({k: v for k, v in state_dict.items() if kept(k)}, path)
        cfg['init_cfg'] = pretrained(path)
        with DefaultScope.overwrite_default_scope('mmdet'):
            again = MODELS.build(copy.deepcopy(cfg))
        if fine:
            again.init_weights()
        else:
            with pytest.raises(RuntimeError, match='running_var'):
                again.init_weights()


def test_pretrained_of_a_segmentor_reaches_the_backbone(files):
    head = dict(
        type='FCNHead',
        in_channels=128,
        in_index=3,
        channels=4,
        num_convs=1,
        num_classes=3,
        norm_cfg=dict(type='BN'),
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(
            ConfigDict(
                type='EncoderDecoder',
                pretrained=files['mmseg'],
                backbone=dict(
                    type='mmlowrank.SwinLoRand',
                    rank=4,
                    window_size=4,
                    convert_weights=True,
                    **ARGS['mmseg'],
                ),
                decode_head=head,
            )
        )
    model.init_weights()
    assert same_as_file(model.backbone, files['mmseg'])


def test_weights_named_twice_are_refused():
    with pytest.raises(ValueError, match='name weights twice'):
        swin('mmdet', pretrained='a.pth', init_cfg=pretrained('b.pth'))


def test_what_a_vit_draws_before_it_loads_is_not_loaded(tmp_path):
    """Its MLPs are drawn anew in init_weights, then the file comes."""
    path = str(tmp_path / 'vit.pth')
    weights = build(VIT, 'SwinTransformer').state_dict()
    missing = [name for name in weights if name.startswith('layers.1.ffn')]
    torch.save({k: weights[k] for k in weights if k not in missing}, path)
    backbone = build(VIT, 'LoRA', rank=4, init_cfg=pretrained(path))
    with pytest.raises(RuntimeError, match=r'layers\.1\.ffn'):
        backbone.init_weights()
