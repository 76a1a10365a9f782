"""The adapter file: what a run trained, tied to the base that it trained on.

A ``.safetensors`` file, https://github.com/huggingface/safetensors: tensors by
their names in the model's state dict, and text. Nothing in it can run. The
text is JSON and says

- ``version`` of this format and, in ``versions``, of what wrote it;
- ``scope`` and ``model``: framework and type;
- ``tuners``: path of each tuned backbone -> ``type`` and ``arguments`` of its
  tuner, ``base``, the :func:`fingerprint` of the frozen weights, and
  ``init_cfg``, where these came from;
- ``aliases``: second names of tensors that the model has under two;
- ``dataset_meta``, ``progress``, ``metrics``: of the run.

A digest covers the text and all tensors: a file of which one bit is not as
it was written is refused, and so is one that is not whole.
"""

import hashlib
import json
import os
import struct
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .whole_file import whole_file

FORMAT = 'mmlowrank.adapter'
VERSION = 1
# A detector has 100 KiB, a thousand classes with names as much again.
_LARGEST_HEADER = 8 * 2**20
_LENGTH = struct.Struct('<Q')
# Key of the text -> type; all must be there.
_SCHEMA = {
    'version': int,
    'versions': dict,
    'scope': str,
    'model': str,
    'tuners': dict,
    'aliases': dict,
    'dataset_meta': dict,
    'progress': dict,
    'metrics': dict,
}
_TUNER_SCHEMA = {'type': str, 'arguments': dict, 'base': str}


class AdapterError(ValueError):
    """A file is no adapter file, damaged, or of another model."""


class AdapterFile(NamedTuple):
    """What :func:`read` returns.

    Attributes:
        info: The text, see the module.
        tensors: Name in the model's state dict -> tensor on the CPU.
    """

    info: dict[str, Any]
    tensors: dict[str, Tensor]


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Fold names, shapes and values into 64 hexadecimal digits.

    The same on every device, in every order, and for every type that holds
    the same values.

    Args:
        tensors: Name -> tensor.
    """
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        kind = torch.float32 if tensor.is_floating_point() else torch.int64
        plain = tensor.detach().to('cpu', kind)
        whole.update(f'{name}{list(tensor.shape)}'.encode())
        whole.update(hashlib.sha256(_bytes(plain)).digest())
    return whole.hexdigest()


def memory(tensor: Tensor) -> Hashable:
    """Return what two tensors have in common that are one in memory."""
    place = (tensor.device, tensor.data_ptr(), tensor.dtype)
    return (*place, *tensor.shape, *tensor.stride())


def write(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], info: dict
) -> dict[str, Any]:
    """Write a file, whole or not at all.

    Args:
        path: Where; replaced if it is there.
        tensors: Name -> tensor; those in the same memory are written once.
        info: The text; ``version`` and ``aliases`` are filled in.

    Returns:
        The text as :func:`read` will return it.
    """
    from safetensors.torch import save

    kept, aliases, first = {}, {}, {}
    for name, tensor in tensors.items():
        owner = first.setdefault(memory(tensor), name)
        if owner == name or not tensor.numel():
            # A copy, because the format wants memory that nobody shares.
            plain = tensor.detach().to('cpu', copy=True)
            kept[name] = plain.contiguous()
        else:
            aliases[name] = owner
    info = dict(info, version=VERSION, aliases=aliases)
    text = json.dumps(info, sort_keys=True)
    metadata = dict(format=FORMAT, adapter=text, sha256=_digest(text, kept))
    # Not save_file, whose files only their owner may read.
    with whole_file(path) as draft:
        draft.write_bytes(save(kept, metadata))
    return json.loads(text)


def is_adapter(path: str | os.PathLike) -> bool:
    """Whether a ``.safetensors`` file is meant to be one of these.

    Raises:
        AdapterError: If it is no file of the format at all.
    """
    metadata = _header(path).get('__metadata__', {})
    return metadata.get('format') == FORMAT or 'adapter' in metadata


def read(path: str | os.PathLike) -> AdapterFile:
    """Read a file and check all of it.

    Raises:
        AdapterError: If it is damaged, or no such file.
        FileNotFoundError: If there is no file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    metadata = _header(path).get('__metadata__', {})
    text = metadata.get('adapter')
    if metadata.get('format') != FORMAT or text is None:
        raise AdapterError(
            f'{path} is no adapter file of mmlowrank: it has tensors, and not '
            'what a run writes beside them'
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise damaged(path, error) from None
    if metadata.get('sha256') != _digest(text, tensors):
        raise damaged(path, 'it is not what was written')
    info = _parsed(path, text)
    _check_info(path, info)
    for name, owner in info['aliases'].items():
        if owner not in tensors or name in tensors:
            raise damaged(path, f"its alias '{name}' leads nowhere")
        tensors[name] = tensors[owner]
    for name in tensors:
        if not all(name.split('.')) or set(name) & set('/\\\0'):
            raise damaged(path, f'{name!r} is no name of a tensor')
    return AdapterFile(info, tensors)


def damaged(path: str | os.PathLike, reason: object) -> AdapterError:
    """Return the error of a file that is not what was written."""
    return AdapterError(
        f'{path} is damaged ({str(reason)[:200]}): copy or download it again'
    )


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f'{name}{tensor.dtype}{list(tensor.shape)}'.encode())
        whole.update(_bytes(tensor))
    return whole.hexdigest()


def _header(path: str | os.PathLike) -> dict:
    """Return what is in front of the tensors.

    The library reads it too, but takes the last of two equal keys.
    """
    with Path(path).open('rb') as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_LENGTH.size)
        if len(start) < _LENGTH.size:
            raise damaged(path, f'it has {size} bytes')
        (length,) = _LENGTH.unpack(start)
        if length > min(size - _LENGTH.size, _LARGEST_HEADER):
            raise damaged(path, f'its header would have {length} bytes')
        header = _parsed(path, file.read(length))
    metadata = header.get('__metadata__', {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise damaged(path, 'its metadata are not texts')
    return header


def _parsed(path: str | os.PathLike, text: str | bytes) -> dict:
    def distinct(pairs: list[tuple[str, Any]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError('a key is there twice')
        return found

    try:
        parsed = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(parsed, dict):
        raise damaged(path, 'its header is no table')
    return parsed


def _check_info(path: str | os.PathLike, info: dict) -> None:
    version = info.get('version')
    if isinstance(version, int) and version > VERSION:
        raise AdapterError(
            f'{path} was written by a newer mmlowrank (its format is '
            f'{version}, known here is {VERSION}): upgrade mmlowrank'
        )
    tables = [(info, _SCHEMA)]
    if isinstance(info.get('tuners'), dict):
        tables += [(t, _TUNER_SCHEMA) for t in info['tuners'].values()]
    for table, schema in tables:
        for key, kind in schema.items():
            if not isinstance(table, dict) or not isinstance(
                table.get(key), kind
            ):
                raise damaged(path, f"its '{key}' is missing or no {kind}")
    if not all(isinstance(owner, str) for owner in info['aliases'].values()):
        raise damaged(path, 'an alias is no name')
