"""Swin files of every layout, into the tuned Swins of three frameworks."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import PretrainedInit
from mmengine.runner import load_checkpoint
from safetensors.torch import save_file
from swin_layouts import (
    FILES,
    check,
    foreign_order,
    microsoft,
    openmmlab,
    timm,
    under,
)
from swins import EMBED_DIMS, FRAMEWORKS, build, images
from torch import nn
from torch.nn import functional as F

from mmlowrank.checkpoint.swin import convert, is_swin
from mmlowrank.models.tuned_backbone import build_stock

every = pytest.mark.parametrize('framework', FRAMEWORKS)


def pretrained(path, **kwargs):
    return dict(type='Pretrained', checkpoint=str(path), **kwargs)


def loaded(framework, path, window=7, **kwargs):
    """A tuned backbone after init_weights."""
    kwargs = dict(init_cfg=pretrained(path)) | kwargs
    backbone = build(
        framework, 'mmlowrank.SwinFixed', window_size=window, **kwargs
    )
    backbone.init_weights()
    return backbone


@every
@pytest.mark.parametrize('what', FILES)
@pytest.mark.parametrize('convert_weights', [False, True])
def test_every_layout_loads(framework, what, convert_weights, tmp_path):
    path = tmp_path / 'swin.pth'
    torch.save(FILES[what](), path)
    extra = dict(convert_weights=True) if convert_weights else {}
    check(framework, loaded(framework, path, **extra), what)


@every
def test_safetensors_load(framework, tmp_path):
    path = tmp_path / 'model.safetensors'
    save_file(timm(), path)
    check(framework, loaded(framework, path), 'timm')


def test_merging_is_that_of_the_sources():
    """Their forward passes, as their code and documents describe them."""
    torch.manual_seed(0)
    ours = build('mmdet', 'SwinTransformer').stages[0].downsample
    for parameter in ours.parameters():
        parameter.data = torch.randn(parameter.shape)
    theirs = {k: foreign_order(v) for k, v in ours.state_dict().items()}
    x = torch.randn(2, 8, 6, EMBED_DIMS)
    microsofts = torch.cat(
        [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], -1
    )
    timms = x.reshape(2, 4, 2, 3, 2, EMBED_DIMS)
    timms = timms.permute(0, 1, 3, 4, 2, 5).flatten(3)
    assert torch.equal(microsofts, timms)
    expected, size = ours(x.flatten(1, 2), (8, 6))
    assert size == (4, 3)
    norm = theirs['norm.weight'], theirs['norm.bias']
    computed = F.layer_norm(timms, [4 * EMBED_DIMS], *norm)
    computed = F.linear(computed, theirs['reduction.weight'])
    torch.testing.assert_close(computed.flatten(1, 2), expected)


@every
@pytest.mark.parametrize(
    'init_cfg',
    [
        lambda path: [pretrained(path)],
        lambda path: [
            dict(type='TruncNormal', layer='Linear', std=0.5),
            ConfigDict(pretrained(path, map_location='cpu')),
        ],
        lambda path: dict(pretrained(path), type=PretrainedInit),
        lambda path: ConfigDict(pretrained(path, prefix='backbone')),
        lambda path: pretrained(f'swin:{path}'),
        lambda path: pretrained(
            f'swin[part=backbone]:{path}', prefix='backbone'
        ),
        lambda path: dict(
            pretrained(path, prefix='backbone'), checkpoint=path
        ),
    ],
)
def test_every_way_to_name_a_file(framework, init_cfg, tmp_path):
    path = tmp_path / 'swin.pth'
    torch.save(FILES['microsoft, detector'](), path)
    init_cfg = init_cfg(path)
    before = copy.deepcopy(init_cfg)
    backbone = loaded(framework, path, init_cfg=init_cfg)
    check(framework, backbone, 'microsoft, detector')
    assert init_cfg == before  # it is the user's


@every
def test_the_prefix_says_which(framework, tmp_path):
    path = tmp_path / 'distilled.pth'
    state_dict = under('student.', timm(12)) | under('teacher.', microsoft())
    torch.save(dict(state_dict=state_dict), path)
    backbone = loaded(
        framework, path, init_cfg=pretrained(path, prefix='teacher')
    )
    check(framework, backbone, 'microsoft')
    sentence = r"distilled\.pth has several models, under 'student\.' and"
    with pytest.raises(ValueError, match=sentence):
        loaded(framework, path)
    with pytest.raises(ValueError, match=r"no Swin under 'ema\.'.*'teacher\."):
        loaded(framework, path, init_cfg=pretrained(path, prefix='ema.'))


def test_models_beside_each_other_are_told_apart():
    checkpoint = dict(student=microsoft(), teacher=timm(), epoch=1)
    name = 'stages.3.blocks.0.norm1.weight'
    found = convert(checkpoint, 'teacher')
    assert torch.equal(found[name], openmmlab()[name])
    with pytest.raises(ValueError, match=r"under 'student\.' and 'teacher\."):
        convert(checkpoint)


@every
@pytest.mark.parametrize(
    'init_cfg',
    [
        None,
        [dict(type='TruncNormal', layer='Linear')],
        pretrained(''),
        [pretrained('a.pth'), pretrained('b.pth')],
    ],
)
def test_without_one_checkpoint_init_cfg_stays(framework, init_cfg):
    backbone = build(
        framework,
        'mmlowrank.SwinFixed',
        init_cfg=init_cfg,
        convert_weights=True,
    )
    assert backbone.init_cfg == init_cfg


def test_classes_are_types_too(tmp_path):
    from mmdet.models import SwinTransformer

    path = tmp_path / 'swin.pth'
    torch.save(timm(), path)
    arguments = dict(embed_dims=EMBED_DIMS, depths=(2, 1, 2, 1))
    swin = build_stock(
        dict(
            arguments,
            type=SwinTransformer,
            num_heads=(1, 2, 2, 4),
            init_cfg=pretrained(path),
        )
    )
    swin.init_weights()
    check('mmdet', swin, 'timm')


def test_a_class_of_the_same_name_is_left_alone():
    assert not is_swin(type('SwinTransformer', (nn.Module,), {}))


def second_swin():
    theirs = microsoft()
    theirs['layers.0.blocks.0.attn.logit_scale'] = torch.zeros(1, 1, 1)
    return dict(model=theirs)


def vit():
    names = ('patch_embed.projection.weight', 'layers.0.ln1.weight')
    return dict(state_dict={f'backbone.{n}': torch.zeros(1) for n in names})


REFUSED = {
    'resnet': (
        lambda: {'conv1.weight': torch.zeros(1), 'fc.bias': torch.zeros(1)},
        r'not a Swin checkpoint of .*first keys: conv1\.weight, fc\.bias\)',
    ),
    'vit': (vit, r'not a Swin .*backbone\.layers\.0\.ln1'),
    'second swin': (second_swin, r"Swin V2 \(.*'logit_scale'\), which is an"),
    'empty': (dict, r'not a Swin .*it is empty\)'),
    'empty inside': (lambda: dict(state_dict={}), r'it is empty\)'),
    'no tensors': (lambda: dict(model='swin', epoch=1), 'keys: model, epoch'),
    'tensor': (lambda: torch.zeros(2), 'but an object of type Tensor'),
}


@every
@pytest.mark.parametrize('what', REFUSED)
def test_other_files_are_refused_by_name(framework, what, tmp_path):
    make, sentence = REFUSED[what]
    path = tmp_path / 'other.pth'
    torch.save(make(), path)
    with pytest.raises(ValueError, match=rf'other\.pth is .*{sentence}'):
        loaded(framework, path)


@every
@pytest.mark.parametrize('name', ['swin.pth', 'swin.safetensors'])
@pytest.mark.parametrize('content', [b'', b'version https://git-lfs\noid 1\n'])
def test_what_is_no_checkpoint_is_refused(framework, name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r'swin\.\w+ cannot be read as a checkpoint: .*whole'
    ):
        loaded(framework, path)
    with pytest.raises(FileNotFoundError):
        loaded(framework, tmp_path / f'no_{name}')


OTHER_DEPTHS = r'swin\.pth is a Swin of depths \[2, 1, 2, 1\], and the model'
ARCHITECTURES = {
    'wider': (dict(embed_dims=2 * EMBED_DIMS), 'embed_dims'),
    'more heads': (dict(num_heads=(2, 2, 2, 4)), 'num_heads'),
    'deeper': (dict(depths=(2, 1, 4, 1)), OTHER_DEPTHS),
    'shallower': (dict(depths=(2, 1, 1, 1)), OTHER_DEPTHS),
}


@every
@pytest.mark.parametrize('what', ARCHITECTURES)
@pytest.mark.parametrize('window', [7, 12])
def test_another_architecture_is_refused(framework, what, window, tmp_path):
    change, sentence = ARCHITECTURES[what]
    path = tmp_path / 'swin.pth'
    torch.save(timm(window), path)
    arch = dict(
        embed_dims=EMBED_DIMS, depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4)
    )
    arch |= change
    if framework == 'mmpretrain':
        # There a tensor that does not fit is logged and left as it was.
        arch = dict(arch=arch)
        sentence += '|random start'
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        loaded(framework, path, **arch)


@every
def test_a_whole_model_of_another_window_loads(framework, tmp_path):
    """``load_from`` reads no init_cfg; copies of the model load as well."""
    path = tmp_path / 'detector.pth'
    torch.save(dict(state_dict=under('backbone.', openmmlab(12))), path)
    model = nn.Module()
    model.backbone = build(framework, 'mmlowrank.SwinFixed', window_size=7)
    model = copy.deepcopy(model)
    load_checkpoint(model, str(path))
    check(framework, model.backbone, 'openmmlab, window 12')
    model.backbone.eval()
    model.backbone(images())


@every
def test_the_first_stages_of_a_file_load(framework, tmp_path):
    path = tmp_path / 'swin.pth'
    torch.save(timm(), path)
    arch = dict(embed_dims=EMBED_DIMS, depths=(2, 1, 2), num_heads=(1, 2, 2))
    arch = dict(arch=arch) if framework == 'mmpretrain' else arch
    backbone = loaded(framework, path, **arch, out_indices=(0, 1, 2))
    state_dict = backbone.state_dict()
    assert 'stages.2.blocks.1.attn.w_msa.qkv.weight' in state_dict
    for name, value in state_dict.items():
        if not name.startswith('norm'):
            assert torch.equal(value, openmmlab()[name]), name


@pytest.mark.parametrize(
    'name', ['swin.pth', 'swin.safetensors', 'swin.safetensors?download=true']
)
def test_urls_load(served, name):
    folder, url = served
    torch.save(timm(), folder / 'swin.pth')
    save_file(timm(), folder / 'swin.safetensors')
    check('mmseg', loaded('mmseg', f'{url}/{name}'), 'timm')


def test_safetensors_load_wherever_a_checkpoint_does(tmp_path):
    layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
    path = tmp_path / 'model.safetensors'
    save_file(layer.state_dict(), path)
    load_checkpoint(other, str(path), map_location='cpu', strict=True)
    assert torch.equal(other.weight, layer.weight)
