"""One Swin as files of every layout have it, and a check of what arrived."""

import functools
import re

import torch
from swins import EMBED_DIMS, build
from torch.nn import functional as F

TABLE, INDEX = 'relative_position_bias_table', 'relative_position_index'


@functools.cache
def openmmlab(window=7):
    """Random tensors under OpenMMLab's names; indices as a file has them."""
    generator = torch.Generator().manual_seed(window)
    swin = build('mmdet', 'SwinTransformer', window_size=window)
    return {
        name: torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else value.clone()
        for name, value in swin.state_dict().items()
    }


def foreign_order(value):
    """Columns of a merging as Microsoft and timm have them, one by one."""
    channels = value.shape[-1] // 4
    order = [
        channel * 4 + row * 2 + column
        for column in range(2)
        for row in range(2)
        for channel in range(channels)
    ]
    return value[..., order]


def microsoft(window=7):
    """A classifier, with what depends on image and window."""
    theirs = {}
    for name, value in openmmlab(window).items():
        if re.match(r'norm[012]\.', name):
            continue
        if '.downsample.' in name:
            value = foreign_order(value)
        for old, new in (
            ('stages.', 'layers.'),
            ('.w_msa.', '.'),
            ('.ffn.layers.0.0.', '.mlp.fc1.'),
            ('.ffn.layers.1.', '.mlp.fc2.'),
            ('.projection.', '.proj.'),
            ('norm3.', 'norm.'),
        ):
            name = name.replace(old, new)
        theirs[name] = value
    theirs['layers.0.blocks.1.attn_mask'] = torch.zeros(4, 49, 49)
    theirs['head.weight'] = torch.zeros(5, 8 * EMBED_DIMS)
    return theirs


def timm(window=7):
    theirs = {}
    for name, value in microsoft(window).items():
        if name.endswith((INDEX, 'attn_mask')):
            continue
        merging = re.match(r'layers\.(\d)\.downsample', name)
        if merging:
            name = f'layers.{int(merging[1]) + 1}{name[8:]}'
        theirs[name.replace('head.', 'head.fc.')] = value
    return theirs


def under(prefix, state_dict, **others):
    return {f'{prefix}{k}': v for k, v in state_dict.items()} | others


def simmim():
    encoder = {
        k: v for k, v in microsoft().items() if not k.startswith('head.')
    }
    encoder['mask_token'] = torch.zeros(1, 1, EMBED_DIMS)
    decoder = {'decoder.0.weight': torch.zeros(8, 8 * EMBED_DIMS, 1, 1)}
    return dict(model=under('encoder.', encoder) | decoder, epoch=100)


def classifier():
    """Of mmpretrain: the last norm only, under its own name."""
    backbone = {
        k: v for k, v in openmmlab().items() if not re.match(r'norm[012]\.', k)
    }
    head = {'head.fc.weight': torch.zeros(5, 8 * EMBED_DIMS)}
    return dict(state_dict=under('backbone.', backbone) | head, meta={})


def detector(swin):
    head = {'bbox_head.fc_cls.weight': torch.zeros(3, 4)}
    return dict(state_dict=under('backbone.', swin) | head, meta={})


# What a file is -> how to make it. Those of 'openmmlab' have its names.
FILES = {
    'microsoft': lambda: dict(model=microsoft(), max_accuracy=81.2),
    'microsoft, window 12': lambda: dict(model=microsoft(12)),
    'microsoft, wrapped': lambda: dict(module=under('module.', microsoft())),
    'microsoft, detector': lambda: detector(microsoft()),
    'timm': timm,
    'timm, window 12': lambda: timm(12),
    'timm, averaged': lambda: dict(state_dict_ema=timm(), epoch=3),
    'timm, part': lambda: under('model.backbone.', timm()),
    'simmim': simmim,
    'openmmlab': openmmlab,
    'openmmlab, window 12': lambda: openmmlab(12),
    'openmmlab, classifier': classifier,
    'openmmlab, detector': lambda: detector(openmmlab()),
    'openmmlab, wrapped': lambda: dict(
        state_dict=under('module.backbone.', openmmlab())
    ),
    'openmmlab, one of two': lambda: dict(
        state_dict=under('backbone.', openmmlab())
        | under('momentum.', openmmlab(12))
    ),
}


def resized(table):
    """From window 12 to 7, as mmdet does."""
    image = table.t().reshape(1, -1, 23, 23)
    image = F.interpolate(image, size=(13, 13), mode='bicubic')
    return image.reshape(-1, 169).t()


def check(framework, backbone, what):
    """Compare every tensor that a file has for a backbone of window 7."""
    state_dict = backbone.state_dict()
    norms = 'norm0. norm1. norm2. norm3.'
    if 'classifier' in what:
        norms = 'norm3.'
    elif 'openmmlab' not in what:
        # A classifier's norm. There detectors, which have one for each
        # stage, leave it out.
        norms = 'norm3.' if framework == 'mmpretrain' else ''
    for name, value in openmmlab(12 if '12' in what else 7).items():
        if re.match(r'norm\d\.', name) and name[:6] not in norms:
            continue
        if name.endswith(INDEX):
            value = openmmlab(7)[name]
        if name.endswith(TABLE) and len(value) != 169:
            value = resized(value)
        assert torch.equal(state_dict[name], value), name
