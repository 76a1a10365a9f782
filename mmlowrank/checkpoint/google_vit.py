"""Read Google's Vision Transformer ``.npz`` files in mmpretrain.

The files of https://github.com/google-research/vision_transformer (plain
ImageNet-21k and AugReg) hold JAX arrays. A checkpoint path gets the prefix
``google-vit:``, and a loader registered with mmengine puts the arrays into
the layout of mmpretrain's VisionTransformer while reading::

    init_cfg = dict(
        type='Pretrained', checkpoint='google-vit:/weights/ViT-B_16.npz')

A dense kernel of JAX is (in, out), where torch keeps (out, in); attention
kernels carry an axis for the heads, (in, heads, width) for query, key and
value, (heads, width, out) behind them. mmpretrain has one fused projection,
whose rows are those of query, key and value in turn. Head and pre-logits
are left out. A position embedding of another grid is resized by
mmpretrain while it loads, by the backbone's ``interpolate_mode``.
"""

import hashlib
import os
import re
import zipfile
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier
from mmengine.runner import CheckpointLoader
from torch import Tensor

PREFIX = 'google-vit:'

# AugReg files that keep the whole training state have the weights here.
_TRAINING_STATE = 'opt/target/'
_HEAD = re.compile(r'^(head|pre_logits)/')
_BLOCK = re.compile(r'^Transformer/encoderblock_(\d+)/')
# Names in a block, Google's -> mmpretrain's. Query, key and value are apart.
_NORMS = {'LayerNorm_0': 'ln1', 'LayerNorm_2': 'ln2'}
_DENSE = {
    'MlpBlock_3/Dense_0': 'ffn.layers.0.0',
    'MlpBlock_3/Dense_1': 'ffn.layers.1',
}
_ATTENTION = 'MultiHeadDotProductAttention_1'


def convert(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return Google's arrays in the layout of mmpretrain.

    Args:
        arrays: Name -> array, as ``numpy.load`` reads the file.

    Raises:
        ValueError: If an array is missing, or one is there that a Vision
            Transformer does not have.
    """
    if any(name.startswith(_TRAINING_STATE) for name in arrays):
        arrays = {
            name.removeprefix(_TRAINING_STATE): array
            for name, array in arrays.items()
            if name.startswith(_TRAINING_STATE)
        }
    source = _Arrays(
        {n: array for n, array in arrays.items() if not _HEAD.match(n)}
    )
    blocks = [int(m[1]) for m in map(_BLOCK.match, arrays) if m]
    converted = {
        'cls_token': source.take('cls'),
        'pos_embed': source.take('Transformer/posembed_input/pos_embedding'),
        # (height, width, in, out) -> (out, in, height, width)
        'patch_embed.projection.weight': source.take(
            'embedding/kernel'
        ).permute(3, 2, 0, 1),
        'patch_embed.projection.bias': source.take('embedding/bias'),
        **_norm(source, 'Transformer/encoder_norm', 'ln1'),
    }
    for index in range(max(blocks, default=0) + 1):
        converted.update(
            _block(source, f'Transformer/encoderblock_{index}', index)
        )
    source.check_empty()
    return {name: value.contiguous() for name, value in converted.items()}


class _Arrays:
    """The arrays of a file, each of which must be taken once."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.left = dict(arrays)
        self.first = ', '.join(list(arrays)[:3])

    def take(self, name: str) -> Tensor:
        if name not in self.left:
            raise ValueError(
                "not a Vision Transformer of Google's repository: it has no "
                f"array '{name}' (first arrays: {self.first})"
            )
        return torch.from_numpy(np.asarray(self.left.pop(name), np.float32))

    def check_empty(self) -> None:
        if self.left:
            raise ValueError(
                "not a plain Vision Transformer of Google's repository: "
                f'{len(self.left)} arrays have no place in it, first: '
                f"'{min(self.left)}'. Hybrids with a ResNet are not supported"
            )


def _norm(source: _Arrays, theirs: str, ours: str) -> dict[str, Tensor]:
    return {
        f'{ours}.weight': source.take(f'{theirs}/scale'),
        f'{ours}.bias': source.take(f'{theirs}/bias'),
    }


def _block(source: _Arrays, theirs: str, index: int) -> dict[str, Tensor]:
    ours = f'layers.{index}'
    block = {}
    for norm, name in _NORMS.items():
        block.update(_norm(source, f'{theirs}/{norm}', f'{ours}.{name}'))
    for dense, name in _DENSE.items():
        kernel = source.take(f'{theirs}/{dense}/kernel')
        block[f'{ours}.{name}.weight'] = kernel.T
        block[f'{ours}.{name}.bias'] = source.take(f'{theirs}/{dense}/bias')
    attention = f'{theirs}/{_ATTENTION}'
    parts = [f'{attention}/{part}' for part in ('query', 'key', 'value')]
    # (in, heads, width) -> (heads width, in), and the three below each other
    kernels = [source.take(f'{part}/kernel').flatten(1).T for part in parts]
    biases = [source.take(f'{part}/bias').flatten() for part in parts]
    block[f'{ours}.attn.qkv.weight'] = torch.cat(kernels)
    block[f'{ours}.attn.qkv.bias'] = torch.cat(biases)
    # (heads, width, out) -> (out, heads width)
    out = source.take(f'{attention}/out/kernel').flatten(0, 1).T
    block[f'{ours}.attn.proj.weight'] = out
    block[f'{ours}.attn.proj.bias'] = source.take(f'{attention}/out/bias')
    return block


@CheckpointLoader.register_scheme(prefixes=PREFIX)
def load_from_google_vit(
    filename: str, map_location: str | None = None
) -> dict[str, dict[str, Tensor]]:
    """Read ``google-vit:<path or URL>`` for mmengine.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a Vision Transformer's ``.npz``.
    """
    location = filename.removeprefix(PREFIX)
    if location.startswith(('http://', 'https://')):
        path = _downloaded(location)
    else:
        path = Path(location).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} does not exist. Download the weights from '
            'https://github.com/google-research/vision_transformer and set '
            f"checkpoint='{PREFIX}PATH' in the backbone's init_cfg"
        )
    try:
        # Without pickle: a checkpoint must not be able to run code.
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} is not a readable .npz: {error}') from None
    try:
        state_dict = convert(arrays)
    except ValueError as error:
        raise ValueError(f'{path} is {error}') from None
    return dict(
        state_dict={
            name: value.to(map_location or 'cpu')
            for name, value in state_dict.items()
        }
    )


def _downloaded(url: str) -> Path:
    """Return the file behind ``url``, in torch's cache of checkpoints.

    Named after all of it: the files of two trainings have the same last name.
    """
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    name = Path(urlparse(url).path)
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / f'{name.stem}-{key}{name.suffix}'
    # mmengine's own local rank needs a group that nobody makes.
    first = int(os.environ.get('LOCAL_RANK', 0)) == 0
    if first and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))
    barrier()
    return path
