"""Read Swin checkpoints of any layout in any framework.

mmdet, mmseg and mmpretrain each load Swins of OpenMMLab's layout, with the
backbone where they look for it. Here a checkpoint path gets the prefix
``swin:``, and a loader registered with mmengine finds the Swin in the file
and puts it into that layout while reading. :func:`prepare` marks the
``init_cfg`` of a Swin so; a tuned Swin is prepared when it is built.

Where a Swin is: at the top of Microsoft's and timm's files, under
``encoder.`` in those of SimMIM, under ``backbone.`` in whole models, each
perhaps behind ``module.``; and the state dict may be the file or lie in it as
``state_dict``, ``model`` or ``module``. So it is looked for by the weight of
the patch embedding, which a Swin has once.

How the layouts differ:

- Names. In those of https://github.com/microsoft/Swin-Transformer,
  https://github.com/microsoft/SimMIM and
  https://github.com/huggingface/pytorch-image-models (timm), OpenMMLab's
  ``stages`` are ``layers``, ``attn.w_msa`` is ``attn``, ``ffn.layers.0.0``
  and ``ffn.layers.1`` are ``mlp.fc1`` and ``mlp.fc2``, and
  ``patch_embed.projection`` is ``patch_embed.proj``.
- The patch merging between two stages ends the first for Microsoft and
  OpenMMLab (``layers.0`` to ``layers.2`` have one), and begins the second for
  timm since 0.9 (``layers.1`` to ``layers.3``).
- Order of the 4C inputs of a merging. Microsoft concatenates the neighbours
  (row, column) = (0, 0), (1, 0), (0, 1), (1, 1), each with its C channels.
  timm flattens (column, row, channel), which is the same. OpenMMLab unfolds
  an image, which gives (channel, row, column).

Bias tables of another window keep their size here, and are resized where
they are loaded; position indices belong to the window in use and are left
out. Swin V2 is another architecture.
"""

import re
from typing import Any

from mmengine.config import ConfigDict
from mmengine.model import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import resolve
from .trust import forbidden

# Options may stand in brackets, as in 'swin[part=teacher,depths=2-2-6-2]:'.
_MARK = re.compile(r'swin(?:\[(.*?)\])?:')
_FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')
# Where this puts the backbone, and all three frameworks find it.
_BACKBONE = 'backbone'

_CONTAINERS = ('state_dict', 'model', 'module')
_PATCHES = re.compile(r'(|.*\.)patch_embed\.proj(?:ection)?\.weight')
_TABLE = 'relative_position_bias_table'
_SWIN = re.compile(
    rf'(?:layers\.\d+\.blocks\.\d+\.attn|stages\.\d+\.blocks\.\d+\.attn\.w_msa)'
    rf'\.{_TABLE}'
)
_SECOND_SWIN = re.compile(r'\.attn\.(?:w_msa\.)?(cpb_mlp|logit_scale)\b')
# The classifier, what SimMIM masks with, and what depends on image or window.
_DROPPED = re.compile(
    r'^head\.|^mask_token$|\.attn_mask$|\.relative_position_index$'
)
_BLOCK = re.compile(r'stages\.(\d+)\.blocks\.(\d+)\.')
_MERGING = re.compile(r'^layers\.(\d+)\.downsample\.')
# Applied in this order to each key.
_RENAMES = (
    (r'^layers\.', 'stages.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
)


def is_swin(kind: Any) -> bool:
    """Return whether ``kind`` is a framework's Swin, or derives from one.

    By name, because no framework must be installed. Other packages have
    other classes of that name.
    """
    return any(
        base.__name__ == 'SwinTransformer'
        and base.__module__.partition('.')[0] in _FRAMEWORKS
        for base in getattr(kind, '__mro__', ())
    )


def prepare(backbone: nn.Module) -> None:
    """Let a stock Swin read any Swin checkpoint.

    The entry of type ``'Pretrained'`` in its ``init_cfg`` gets the mark of
    this module, and replaces a list: it would overwrite what the others
    draw, and mmdet's and mmseg's Swins take no list. A ``prefix`` in it says
    which part of the file is the backbone. Without one such entry,
    ``init_cfg`` stays as it is.

    Bias tables of another window are resized, as mmdet and mmseg do it.
    mmpretrain promises that too, but calls a function that SciPy removed in
    1.14, and then drops a position index that timm's files lack.

    Args:
        backbone: Of a class for which :func:`is_swin` holds.
    """
    depths = [len(stage.blocks) for stage in backbone.stages]
    backbone.init_cfg = _marked(backbone.init_cfg, depths)
    handle = backbone._register_load_state_dict_pre_hook(
        _resize_tables, with_module=True
    )
    # Before mmpretrain's own hook, which then has nothing to do.
    backbone._load_state_dict_pre_hooks.move_to_end(handle.id, last=False)


def _marked(
    init_cfg: dict | list[dict] | None, depths: list[int]
) -> dict | list[dict] | None:
    entries = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    found = [
        entry
        for entry in entries
        if resolve(entry.get('type'), WEIGHT_INITIALIZERS) is PretrainedInit
        and entry.get('checkpoint')
    ]
    if len(found) != 1:
        return init_cfg
    checkpoint, part = str(found[0]['checkpoint']), found[0].get('prefix')
    options, path = _unmarked(checkpoint)
    # Beside a mark, a prefix is that of what this module returns.
    if part and path == checkpoint:
        options['part'] = part
    options['depths'] = '-'.join(map(str, depths))
    mark = ','.join(f'{key}={value}' for key, value in options.items())
    # The type as a string, with which mmpretrain compares it; a ConfigDict,
    # because mmdet reads an attribute.
    return ConfigDict(
        found[0],
        type='Pretrained',
        checkpoint=f'swin[{mark}]:{path}',
        prefix=_BACKBONE,
    )


def _unmarked(checkpoint: str) -> tuple[dict[str, str], str]:
    """Return the options in the mark of a checkpoint, and its path."""
    mark = _MARK.match(checkpoint)
    if mark is None:
        return {}, checkpoint
    options = mark[1].split(',') if mark[1] else []
    return dict(o.split('=', 1) for o in options), checkpoint[mark.end() :]


def convert(
    checkpoint: dict[str, Any], part: str | None = None
) -> dict[str, Tensor]:
    """Return the Swin of a checkpoint in OpenMMLab's layout.

    Args:
        checkpoint: A state dict, or a file's dict around one.
        part: What the names of the Swin begin with; needed where there are
            several.

    Raises:
        ValueError: If there is no Swin, several, or a Swin V2; the text is
            to follow the name of the file.
    """
    everything = _state_dict(checkpoint)
    tensors = {k: v for k, v in everything.items() if isinstance(v, Tensor)}
    matches = [m for m in map(_PATCHES.fullmatch, tensors) if m]
    if not matches:
        raise ValueError(_not_a_swin(everything))
    part = _choose([match[1] for match in matches], part)
    swin = {
        key.removeprefix(part): value
        for key, value in tensors.items()
        if key.startswith(part)
    }
    second = next((m for m in map(_SECOND_SWIN.search, swin) if m), None)
    if second:
        raise ValueError(
            f"is a checkpoint of Swin V2 (its attention has '{second[1]}'), "
            'which is another architecture: take a file of the first Swin'
        )
    if not any(map(_SWIN.fullmatch, swin)):
        raise ValueError(_not_a_swin(everything))
    swin = {k: v for k, v in swin.items() if not _DROPPED.search(k)}
    if any(key.startswith('layers.') for key in swin):
        return _renamed(swin)
    return swin


def _state_dict(checkpoint: object) -> dict[str, Any]:
    """Return the state dict that a file's object is or holds."""
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise ValueError(
            f'is not a checkpoint but an object of type {kind}: save a state '
            'dict'
        )
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), dict):
            return _state_dict(checkpoint[key])
    # Whatever dicts there are (averaged weights; a student and a teacher),
    # told apart by their names.
    flat = {}
    for key, value in checkpoint.items():
        if isinstance(value, dict):
            flat.update({f'{key}.{k}': v for k, v in value.items()})
        else:
            flat[str(key)] = value
    return flat


def _not_a_swin(state_dict: dict[str, Any]) -> str:
    first = ', '.join(list(state_dict)[:3])
    seen = f'its first keys: {first}' if first else 'it is empty'
    return (
        'is not a Swin checkpoint of OpenMMLab, of the Microsoft repositories '
        f'or of timm ({seen}): take one of theirs'
    )


def _choose(parts: list[str], wanted: str | None) -> str:
    """Return which of the parts that may be a Swin is meant."""
    named = ' and '.join(f"'{part}'" if part else 'the top' for part in parts)
    if wanted:
        wanted = wanted.rstrip('.') + '.'
        if wanted in parts:
            return wanted
        raise ValueError(
            f"has no Swin under '{wanted}', which init_cfg gives as prefix, "
            f'but under {named}: change the prefix or leave it out'
        )
    if len(parts) == 1:
        return parts[0]
    # Where every framework looks first.
    if f'{_BACKBONE}.' in parts:
        return f'{_BACKBONE}.'
    raise ValueError(
        f'has several models, under {named}: say which one with prefix=... '
        'in init_cfg'
    )


def _renamed(swin: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a Swin of Microsoft or timm in OpenMMLab's layout."""
    matches = map(_MERGING.match, swin)
    # 0 where a merging ends its stage, 1 where it begins the next.
    shift = min((int(m[1]) for m in matches if m), default=0)
    converted = {}
    for key, value in swin.items():
        merging = _MERGING.match(key)
        if merging:
            stage = int(merging[1]) - shift
            key = f'layers.{stage}.downsample.{key[merging.end() :]}'
            value = _neighbours_last(value)
        for pattern, name in _RENAMES:
            key = re.sub(pattern, name, key)
        converted[key] = value
    return converted


def _neighbours_last(value: Tensor) -> Tensor:
    """Reorder (..., 4C) from Microsoft's and timm's order to unfold's."""
    # (..., column, row, C) -> (..., C, row, column)
    channels = value.shape[-1] // 4
    grid = value.reshape(*value.shape[:-1], 2, 2, channels)
    return grid.transpose(-1, -3).reshape(value.shape)


def _of_depths(
    swin: dict[str, Tensor], depths: list[int]
) -> dict[str, Tensor]:
    """Return what a Swin of these depths has, or refuse another one.

    The stages of a Swin-T fit the first blocks of a Swin-S in every shape.
    """
    # mmdet fails on tables of stages that the model does not have.
    kept = {
        key: value
        for key, value in swin.items()
        if not (block := _BLOCK.match(key)) or int(block[1]) < len(depths)
    }
    blocks = {m[0]: int(m[1]) for m in map(_BLOCK.match, kept) if m}
    found = [list(blocks.values()).count(i) for i in range(len(depths))]
    if found != depths:
        raise ValueError(
            f'is a Swin of depths {found}, and the model has {depths}: take '
            'a file of this architecture or change the depths'
        )
    return kept


@CheckpointLoader.register_scheme(prefixes=_MARK.pattern)
def load_from_swin(
    filename: str, map_location: str | None = None
) -> dict[str, dict[str, Tensor]]:
    """Read ``swin:<path, URL or other scheme>`` for mmengine.

    Args:
        filename: ``swin[part=teacher.backbone]:<path>`` reads that part of a
            file with several Swins; ``swin[depths=2-2-6-2]:<path>`` refuses
            a Swin of other depths.
        map_location: As in ``torch.load``.

    Returns:
        ``state_dict`` with the names of OpenMMLab behind ``backbone.``.

    Raises:
        OSError: If the file cannot be found or fetched.
        ValueError: If it is not a checkpoint, or not of one such Swin.
    """
    options, path = _unmarked(filename)
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location)
    except OSError:
        raise
    # Bytes that are no pickle can raise anything.
    except Exception as error:
        if forbidden(error):
            raise
        reason = next(iter(str(error).splitlines()), '')
        raise ValueError(
            f'{path} cannot be read as a checkpoint: is it a file of torch or '
            'safetensors, and was it downloaded whole? '
            f'({type(error).__name__}: {reason})'
        ) from error
    try:
        swin = convert(checkpoint, options.get('part'))
        if 'depths' in options:
            depths = [int(depth) for depth in options['depths'].split('-')]
            swin = _of_depths(swin, depths)
    except ValueError as error:
        raise ValueError(f'{path} {error}') from None
    return dict(state_dict={f'{_BACKBONE}.{k}': v for k, v in swin.items()})


def _resize_tables(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Fit bias tables of another window before they are loaded."""
    for name, table in module.named_parameters():
        loaded = state_dict.get(prefix + name)
        if not name.endswith(_TABLE) or loaded is None:
            continue
        if len(loaded) != len(table):
            index = name.replace('bias_table', 'index')
            state_dict[prefix + name] = _resized(loaded, len(table))
            state_dict[prefix + index] = module.get_buffer(index)


def _resized(table: Tensor, length: int) -> Tensor:
    """Return a (L, heads) table for another window, as (length, heads)."""
    old, new = (round(n**0.5) for n in (len(table), length))
    image = table.float().t().unflatten(1, (old, old))
    image = F.interpolate(image[None], size=(new, new), mode='bicubic')
    return image[0].flatten(1).t().contiguous()
