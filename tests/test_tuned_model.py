"""DESIGN's promises in whole detectors: tuners behind the backbone."""

import copy
import pickle

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from swins import stir as stir_part
from torch import nn

from mmlowrank import config_packages
from mmlowrank.analysis.counting import build_on_meta
from mmlowrank.checkpoint.adapters import (
    disabled,
    load_adapter,
    own_state,
    save_adapter,
)
from mmlowrank.checkpoint.merge import largest_difference, merge
from mmlowrank.engine.freeze_audit import audit_table
from mmlowrank.models.stock_model import stock_model_config
from mmlowrank.models.tuned_backbone import attach
from mmlowrank.tuners import CannotMerge, freeze_matching, tuners_of

SIZE = 64
RESNET = dict(
    depth=18, base_channels=8, stem_channels=8, init_cfg=None, style='pytorch'
)
NARROW = [8, 16, 32, 64]
RLRR = dict(type='RLRR', init='identity')
ALL = dict(type='LoRA', rank=2, sites=('.*',))


def thin_dino(model):
    model.backbone.update(RESNET)
    model.neck.in_channels = NARROW[1:]
    model.update(num_queries=5)
    for part in (model.encoder, model.decoder):
        part.num_layers = 1
    model.bbox_head.num_classes = 2
    model.dn_cfg.group_cfg.num_dn_queries = 4
    model.test_cfg.max_per_img = 5


def thin_mask2former(model):
    model.backbone.update(RESNET)
    head = model.panoptic_head
    head.update(
        in_channels=NARROW,
        num_things_classes=2,
        num_stuff_classes=0,
        num_queries=5,
    )
    head.pixel_decoder.encoder.num_layers = 1
    head.transformer_decoder.num_layers = 2
    head.loss_cls.class_weight = [1.0] * 2 + [0.1]
    model.panoptic_fusion_head.update(
        num_things_classes=2, num_stuff_classes=0
    )
    model.train_cfg.num_points = 32
    model.test_cfg.max_per_image = 5
    # To 1024 x 1024.
    model.data_preprocessor.batch_augments = None


def thin_cascade(model):
    model.backbone.update(RESNET)
    model.neck.update(in_channels=NARROW, out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    for extractor in ('bbox_roi_extractor', 'mask_roi_extractor'):
        model.roi_head[extractor].out_channels = 16
    for head in model.roi_head.bbox_head:
        head.update(in_channels=16, fc_out_channels=16, num_classes=2)
    model.roi_head.mask_head.update(
        in_channels=16, conv_out_channels=16, num_convs=1, num_classes=2
    )


# Name -> config, what makes it small, tuners, and the share that trains.
HEADS = {
    'dino': (
        'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        thin_dino,
        {
            'backbone': dict(type='LoRA', rank=2),
            'encoder': ALL,
            'decoder': dict(ALL, trainable=['norm']),
            'bbox_head': dict(
                type='LoRA',
                rank=2,
                sites=['reg_branches'],
                trainable=['cls_branches'],
            ),
        },
    ),
    'mask2former': (
        'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
        thin_mask2former,
        {
            'backbone': dict(type='Fixed'),
            'panoptic_head.pixel_decoder': ALL,
            'panoptic_head.transformer_decoder': [
                dict(type='LoRA', rank=2),
                dict(type='NormTuning'),
            ],
        },
    ),
    'cascade': (
        'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
        thin_cascade,
        {
            'neck': ALL,
            'rpn_head': RLRR,
            # Both heads are lists of three.
            'roi_head': dict(
                type='LoRA',
                rank=2,
                sites=['bbox_head', 'mask_head.*convs'],
                trainable=[
                    r'bbox_head\.\d\.fc_(cls|reg)',
                    r'mask_head\.\d\.conv_logits',
                ],
            ),
        },
    ),
}
every = pytest.mark.parametrize('name', HEADS)


def config(name, tuners=None, **more):
    """Return the model's config as a leaf with a stock base would have it."""
    path, thin, own = HEADS[name]
    model = Config.fromfile(config_packages.find(path)).model
    thin(model)
    model.update(model=model.type, type='mmlowrank.TunedModel', **more)
    model.tuners = own if tuners is None else tuners
    return model


def build(model, seed=0):
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmdet'):
        built = MODELS.build(copy.deepcopy(model))
    if hasattr(built, 'level_embed'):
        # What was in memory, before a DETR's init_weights.
        nn.init.zeros_(built.level_embed)
    return built


def tuned(name, **kwargs):
    return build(config(name, **kwargs))


def stock(name):
    return build(stock_model_config(config(name)))


def stir(model, seed=1):
    """Move what the tuners own away from its start."""
    for tuner in tuners_of(model).values():
        stir_part(tuner.backbone, seed)


def data(model, seed=0):
    torch.manual_seed(seed)
    packed = demo_mm_inputs(
        2,
        [(3, SIZE, SIZE)] * 2,
        num_items=[2, 1],
        num_classes=2,
        with_mask=True,
    )
    return model.data_preprocessor(packed, True)


def loss(model, seed=0):
    batch = data(model, seed)
    torch.manual_seed(seed)  # denoising queries, samplers
    losses = model.train()(**batch, mode='loss')
    return model.parse_losses(losses)[0]


def started(name):
    """A tuned detector as at a start of training, its tuners moved."""
    model = tuned(name)
    torch.manual_seed(0)
    model.init_weights()
    stir(model)
    return model


@every
def test_it_is_the_stock_model(name):
    model, reference = tuned(name), stock(name)
    assert type(model) is type(reference)
    own = {n for n in model.state_dict() if '.tuner.' not in n}
    assert own == set(reference.state_dict())
    result = model.load_state_dict(reference.state_dict(), strict=False)
    assert not result.unexpected_keys
    # The same loss to the bit, as long as the methods are at their start.
    with torch.no_grad():
        assert torch.equal(loss(model), loss(reference))
    pickle.loads(pickle.dumps(model))


@every
def test_stock_init_leaves_the_tuners_alone(name):
    """A DETR draws all that has two dimensions below its decoder."""
    model = tuned(name)
    tuners = {
        path: copy.deepcopy(tuner.state_dict())
        for path, tuner in tuners_of(model).items()
    }
    model.init_weights()
    for path, tuner in tuners_of(model).items():
        for key, value in tuner.state_dict().items():
            assert torch.equal(value, tuners[path][key]), (path, key)
        tuner.check()


@every
def test_exactly_the_owned_get_a_gradient(name):
    model = tuned(name)
    stir(model)
    for tuner in tuners_of(model).values():
        tuner.check()
    hosts = [path.removesuffix('tuner') for path in tuners_of(model)]
    model.train()
    loss(model).backward()
    for path, parameter in model.named_parameters():
        trained = parameter.grad is not None
        if any(path.startswith(host) for host in hosts):
            assert trained == parameter.requires_grad, path
    assert any(
        p.grad.abs().sum() for p in model.parameters() if p.grad is not None
    )


@every
def test_it_predicts(name):
    model = tuned(name).eval()
    with torch.no_grad():
        found = model(**data(model), mode='predict')
    assert len(found) == 2


@every
def test_two_backward_passes_add_up(name):
    model = tuned(name)
    stir(model)
    loss(model).backward()
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    loss(model).backward()
    twice = [p.grad for p in model.parameters() if p.grad is not None]
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(two, 2 * one)
    places = [g.data_ptr() for g in twice]
    assert len({*places}) == len(places)


@every
def test_autocast_keeps_gradients_in_fp32(name):
    model = tuned(name)
    stir(model)
    with torch.autocast('cpu', torch.bfloat16):
        total = loss(model)
    total.backward()
    for path, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype is torch.float32, path
            assert parameter.grad.isfinite().all(), path


@every
def test_a_deep_copy_is_independent(name):
    model = tuned(name)
    twin = copy.deepcopy(model)
    stir(twin, seed=3)
    before = loss(model).detach()
    loss(twin).backward()
    assert torch.equal(before, loss(model))
    assert not torch.equal(before, loss(twin))
    assert all(p.grad is None for p in model.parameters())
    path = next(iter(tuners_of(twin)))
    host = path.removesuffix('.tuner')
    assert tuners_of(twin)[path].backbone is twin.get_submodule(host)
    # Its init_weights is its own.
    assert twin.init_weights.args[0] is twin


@every
def test_merged_is_the_stock_model(name):
    model, plain = tuned(name), stock(name)
    stir(model)
    merged = merge(model)
    assert list(merged.state_dict) == list(plain.state_dict())
    plain.load_state_dict(merged.state_dict)
    images = torch.randn(1, 3, SIZE, SIZE)
    # One rounding of each weight in float32.
    assert largest_difference(model, plain, images) < 1e-5
    with torch.no_grad():
        one, other = loss(model), loss(plain)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=0)


def test_a_layer_with_several_names(tmp_path):
    """RTMDet's convolutions are one for all levels."""
    path = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    model = Config.fromfile(config_packages.find(path)).model
    model.backbone.update(deepen_factor=0.1, widen_factor=0.125, init_cfg=None)
    model.neck.update(in_channels=[32, 64, 128], out_channels=8)
    model.neck.num_csp_blocks = 1
    model.bbox_head.update(in_channels=8, feat_channels=8, num_classes=2)
    plain = build(model, seed=3)
    model.update(
        model=model.type,
        type='mmlowrank.TunedModel',
        tuners={
            'bbox_head': dict(
                type='LoRA',
                rank=2,
                sites=['cls_convs'],
                trainable=[r'reg_convs\.1\.0\.bn'],
            )
        },
    )
    one = build(model)
    stir(one)
    bn = one.bbox_head.reg_convs[1][0].bn
    bn.weight.data += 1
    assert bn.weight.requires_grad
    plain.load_state_dict(merge(one).state_dict)
    images = torch.randn(1, 3, SIZE, SIZE)
    assert largest_difference(one, plain, images) < 1e-5
    file = tmp_path / 'adapter.safetensors'
    save_adapter(one, file)
    kept = own_state(one)
    assert 'bbox_head.cls_convs.1.0.conv.weight' not in kept
    assert 'bbox_head.reg_convs.2.0.bn.running_mean' not in kept
    other = build(model)
    load_checkpoint(other, str(file))
    for key, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize('tuner', [dict(type='LoRA', rank=2), RLRR])
def test_encoders_of_pytorch(tuner):
    """In evaluation they have a fast path past their attention's forward."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    plain = nn.TransformerEncoder(layer, 2).eval()
    one = attach(dict(tuner), copy.deepcopy(plain), lambda: plain).eval()
    stir(one)
    plain.load_state_dict(one.tuner.merge())
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(one(x), plain(x), rtol=1e-4, atol=1e-5)


def test_one_layer_is_a_part():
    path = 'roi_head.bbox_head.0.fc_cls'
    model = tuned('cascade', tuners={path: dict(type='LoRA', rank=2)})
    before = model.get_submodule(path).weight.clone()
    stir(model)
    plain = stock('cascade')
    plain.load_state_dict(merge(model).state_dict)
    assert not torch.equal(plain.get_submodule(path).weight, before)
    images = torch.randn(1, 3, SIZE, SIZE)
    assert largest_difference(model, plain, images) < 1e-5


@pytest.mark.parametrize('prefix', ['student', 'student.'])
def test_the_whole_may_be_a_part_of_a_checkpoint(prefix):
    init_cfg = dict(type='Pretrained', checkpoint='x.pth', prefix=prefix)
    model = tuned('dino', init_cfg=init_cfg)
    found = tuners_of(model)['decoder.tuner'].part_of
    assert found == ('x.pth', 'student.decoder.')


def test_what_stands_beside_the_layers_of_a_decoder_is_a_block():
    def trained(layers):
        tuner = dict(type='Partial', layers=layers)
        model = tuned('dino', tuners={'decoder': tuner})
        return {
            name.split('.')[0]
            for name, p in model.decoder.named_parameters()
            if p.requires_grad
        }

    assert trained([0]) == {'ref_point_head', 'norm'}
    assert trained([-1]) == {'layers'}
    assert trained(None) == {'ref_point_head', 'norm', 'layers'}


def test_merging_in_vain_is_noticed():
    """What is compared are the layers that are changed."""
    model, plain = tuned('dino'), stock('dino')
    plain.load_state_dict(merge(model).state_dict)
    stir(model)
    tuners_of(model)['backbone.tuner'].requires_grad_(False)
    for tensor in tuners_of(model)['backbone.tuner'].parameters():
        nn.init.zeros_(tensor)
    images = torch.randn(1, 3, SIZE, SIZE)
    assert largest_difference(model, plain, images) > 1e-3


def test_an_adapter_has_no_merged_form():
    detector = config(
        'cascade',
        dict(backbone=dict(type='Fixed'), neck=dict(type='LoRA', rank=2)),
    )
    merge(build(detector))
    vit = dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(
            embed_dims=16,
            num_layers=1,
            num_heads=2,
            feedforward_channels=16,
        ),
        img_size=32,
    )
    model = dict(
        type='mmlowrank.TunedModel',
        model='ImageClassifier',
        backbone=vit,
        head=dict(
            type='VisionTransformerClsHead', num_classes=2, in_channels=16
        ),
        tuners=dict(backbone=dict(type='Adapter', mid_channels=2)),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = MODELS.build(model)
    with pytest.raises(CannotMerge, match='GELU'):
        merge(built)


@every
def test_one_checkpoint_of_the_whole_is_the_base(name, tmp_path):
    """Loaded last, as a DETR draws its decoder anew after ``init_cfg``."""
    whole = stock(name)
    base = str(tmp_path / 'whole.pth')
    torch.save(dict(state_dict=whole.state_dict()), base)
    pretrained = dict(type='Pretrained', checkpoint=base)
    one = tuned(name, init_cfg=pretrained)
    one.init_weights()
    for key, value in whole.state_dict().items():
        assert torch.equal(one.state_dict()[key], value), key
    for tuner in tuners_of(one).values():
        assert tuner.has_base()
        assert tuner.source == base
    stir(one)
    file = tmp_path / 'adapter.safetensors'
    text = save_adapter(one, file)
    assert {t['init_cfg'] for t in text['tuners'].values()} == {base}
    kept = own_state(one)
    for path, tuner in tuners_of(one).items():
        host = path.removesuffix('tuner')
        assert not {f'{host}{n}' for n in tuner.frozen()} & kept.keys()
    # Into a model that has loaded nothing.
    other = build(config(name, init_cfg=pretrained), seed=5)
    load_adapter(other, file)
    for key, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    with torch.no_grad():
        assert torch.equal(loss(other), loss(one))
        with disabled(one):
            plain = loss(one)
    # Necks and heads without a tuner stay, and nothing of them was stirred.
    with torch.no_grad():
        assert torch.equal(plain, loss(whole))


def test_a_frozen_decoder_without_weights_is_said(monkeypatch):
    said = []
    monkeypatch.setattr(
        'mmlowrank.tuners.written.print_log',
        lambda text, **_: said.append(text),
    )
    model = tuned('dino')
    model.init_weights()
    tuners_of(model)['decoder.tuner'].check_weights()
    assert 'of DinoTransformerDecoder at their random start' in said[-1]


def test_the_table_has_a_row_for_each_tuner():
    rows = audit_table(tuned('mask2former'), set())
    assert (
        'panoptic_head.transformer_decoder.tuner (LoRA + NormTuning)' in rows
    )
    assert 'panoptic_head.pixel_decoder.tuner (LoRA)' in rows


def test_counts_include_the_parts():
    cfg = Config(dict(default_scope='mmdet', model=config('dino')))
    model = build_on_meta(cfg)
    decoder = tuners_of(model)['decoder.tuner']
    # q, k, v and proj of the attention of 256; of the deformable attention
    # 256 -> 256, 128 and two of 256; an FFN of 2048; the head of references.
    layers = [(256, 256)] * 4 + [(256, 256), (256, 128)] + [(256, 256)] * 2
    layers += [(256, 2048)] * 2 + [(1024, 256), (256, 256)]
    assert sum(p.numel() for p in decoder.parameters()) == 2 * sum(
        map(sum, layers)
    )


def test_freeze_and_tuners_do_not_contradict():
    model = tuned('cascade')
    with pytest.raises(ValueError, match='which a tuner trains'):
        freeze_matching(model, ['neck'])


@pytest.mark.parametrize(
    'tuners, error, words',
    [
        ({}, ValueError, 'no table'),
        ({'decoders': ALL}, KeyError, 'no such part. It has data_pre'),
        ({'': ALL}, KeyError, 'no such part'),
        (
            {'roi_head': ALL, 'roi_head.bbox_head.0': ALL},
            ValueError,
            'which lies in it',
        ),
        ({'roi_head.bbox_head': ALL}, TypeError, 'Name one of the items'),
        ({'neck': dict(type='NormTuning')}, ValueError, 'train nothing of'),
        ({'neck': dict(rank=2)}, KeyError, 'has no type: add one'),
        ({'neck': 'LoRA'}, ValueError, 'no table'),
        ([ALL], ValueError, 'no table'),
        ({'neck': dict(type='LoRand')}, TypeError, 'needs residual branches'),
        ({'neck': dict(type='LoRA', rank=99)}, ValueError, 'It is lateral_'),
        (
            {'neck': dict(type='LoRA', sites=['nowhere'])},
            ValueError,
            'sites must be',
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused(tuners, error, words):
    with pytest.raises(error, match=words):
        tuned('cascade', tuners=tuners)


def test_a_backbone_has_one_tuner():
    model = config('cascade', {'backbone': ALL})
    model.backbone = dict(
        type='mmlowrank.TunedBackbone',
        backbone=model.backbone,
        tuner=dict(type='BitFit'),
    )
    with pytest.raises(ValueError, match='has its own tuner'):
        build(model)


def test_the_whole_config_may_stand_inside():
    nested = stock_model_config(config('cascade'))
    processor = nested.pop('data_preprocessor')
    model = build(
        dict(
            type='mmlowrank.TunedModel',
            model=nested,
            tuners={'neck': ALL},
            # The runner puts it beside.
            data_preprocessor=processor,
        )
    )
    assert {*tuners_of(model)} == {'neck.tuner'}
    assert model.data_preprocessor.pad_size_divisor == 32
