"""Read Swin checkpoints of the Microsoft repository in any framework.

mmdet's Swin converts them itself (``convert_weights=True``); mmseg's and
mmpretrain's do not. Here a checkpoint path gets the prefix
``microsoft-swin:``, and a loader registered with mmengine renames the keys
and reorders the patch merging while reading, so that every stock loading
path sees a file in OpenMMLab's layout.

Two things differ between the layouts. Names: ``layers`` are ``stages``,
``attn`` is ``attn.w_msa``, ``mlp.fc1`` and ``mlp.fc2`` are
``ffn.layers.0.0`` and ``ffn.layers.1``, ``patch_embed.proj`` is
``patch_embed.projection``. Order of the 4C inputs of a patch merging:
Microsoft concatenates the four neighbours (row, column) = (0, 0), (1, 0),
(0, 1), (1, 1), each with its C channels; OpenMMLab unfolds, channel by
channel, the neighbours (0, 0), (0, 1), (1, 0), (1, 1).
"""

import re

from mmengine.runner import CheckpointLoader
from torch import Tensor

PREFIX = 'microsoft-swin:'

# Applied in this order to each key.
_RENAMES = (
    (r'^layers\.', 'stages.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
)
# The classifier, and masks that OpenMMLab computes for each input size.
_DROPPED = re.compile(r'^head\.|\.attn_mask$')
_MERGING = re.compile(r'\.downsample\.(reduction\.weight|norm\.\w+)$')


def converting(init_cfg: dict) -> dict:
    """Return ``init_cfg`` with its checkpoint marked for conversion."""
    return dict(init_cfg, checkpoint=PREFIX + init_cfg['checkpoint'])


def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state_dict`` of Microsoft's Swin in OpenMMLab's layout.

    Raises:
        ValueError: If it is no such state dict.
    """
    if not any(key.startswith('layers.') for key in state_dict):
        first = ', '.join(list(state_dict)[:3])
        raise ValueError(
            'not a Swin checkpoint of the Microsoft repository (no key '
            f"starts with 'layers.'; first keys: {first}). Files of mmseg "
            'and mmpretrain need no conversion: leave convert_weights out'
        )
    converted = {}
    for key, value in state_dict.items():
        if _DROPPED.search(key):
            continue
        if _MERGING.search(key):
            value = _neighbours_last(value)
        for pattern, name in _RENAMES:
            key = re.sub(pattern, name, key)
        converted[key] = value
    return converted


def _neighbours_last(value: Tensor) -> Tensor:
    """Reorder (..., 4C) from Microsoft's merging order to unfold's."""
    # (..., column, row, C) -> (..., C, row, column)
    channels = value.shape[-1] // 4
    grid = value.reshape(*value.shape[:-1], 2, 2, channels)
    return grid.transpose(-1, -3).reshape(value.shape)


@CheckpointLoader.register_scheme(prefixes=PREFIX)
def _load(filename: str, map_location: str | None = None) -> dict:
    checkpoint = CheckpointLoader.load_checkpoint(
        filename.removeprefix(PREFIX), map_location=map_location
    )
    return dict(state_dict=convert(checkpoint.get('model', checkpoint)))
