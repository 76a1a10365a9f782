"""A folder of features: one file an image, written whole, checked when read.

A file is a digest, the length of the text, the text (JSON: what is in it),
and numbers. Nothing in it can run. What is torn, foreign or not there is a
miss.
"""

import json
import math
import os
import re
import secrets
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SUFFIX = '.features'
KINDS = ('float32', 'float16', 'int8')
_UNITS = {'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12}
# Digest and length of the text.
_HEAD = struct.Struct('<4xII4x')
_ALIGNED = 16
_NAME = re.compile(r'[0-9a-f]{32}')
# Seconds after which a draft is one of a process that was killed.
_OLD = 3600
_LARGEST_HALF = torch.finfo(torch.float16).max


class Packed(NamedTuple):
    """A tensor in fewer bits.

    Attributes:
        values: Of the type that is stored.
        scale: Of int8: what they are multiplied with, one a channel.
        dtype: Name of the type that the tensor had.
    """

    values: Tensor
    scale: Tensor | None
    dtype: str


def pack(tensor: Tensor, kind: str) -> Packed:
    """Store float32 in fewer bits; anything else, and what overflows, stays.

    Args:
        tensor: Of one image: a map (channels, height, width), tokens
            (tokens, channels), or a vector.
        kind: ``'float32'``, as it is; ``'float16'``, each value within
            2^-11 of itself; ``'int8'``, each value within 1/254 of the
            largest of its channel.
    """
    dtype = str(tensor.dtype).removeprefix('torch.')
    largest = tensor.abs().amax() if tensor.numel() else tensor.new_zeros(())
    if dtype != 'float32' or kind == 'float32' or not largest.isfinite():
        return Packed(tensor, None, dtype)
    if kind == 'float16':
        fits = largest <= _LARGEST_HALF
        return Packed(tensor.half() if fits else tensor, None, dtype)
    # A scale for each channel, unlike in nn/kernels/kept.py: in blocks of
    # tokens, those of large values would take the small ones' bits, and here
    # the forward pass goes on from what is stored.
    channels = 0 if tensor.ndim > 2 else tensor.ndim - 1
    others = [d for d in range(tensor.ndim) if d != channels]
    if tensor.ndim == 1:
        others = [0]
    scale = tensor.abs().amax(others, keepdim=True) / 127
    scale = scale.clamp_min(torch.finfo(torch.float32).tiny)
    return Packed((tensor / scale).round_().to(torch.int8), scale, dtype)


def unpack(packed: Packed) -> Tensor:
    """Return the tensor that :func:`pack` was given, up to its rounding."""
    tensor = packed.values.to(getattr(torch, packed.dtype))
    return tensor if packed.scale is None else tensor.mul_(packed.scale)


def size_in_bytes(limit: str | int) -> int:
    """Read a size: bytes, or a text such as ``'20GB'``.

    Raises:
        ValueError: If it is none.
    """
    found = re.fullmatch(r'([\d.]+) ?([KMGT]B)', str(limit).upper())
    try:
        if found:
            return int(float(found[1]) * _UNITS[found[2]])
        return int(limit)
    except ValueError:
        raise ValueError(
            f"limit={limit!r} is no size: write '20GB', '500MB', or a number "
            'of bytes'
        ) from None


class FeatureStore:
    """Files of features below a folder, no more than fit.

    Several processes may read and write one folder. Each may write its share
    of what was free when it began.

    Args:
        folder: For the entries of every base.
        name: 32 hexadecimal digits, of base and trunk.
        limit: Bytes for the whole folder.
        processes: How many begin to write now.
    """

    def __init__(
        self, folder: str | Path, name: str, limit: int, processes: int = 1
    ) -> None:
        self.root, self.folder = Path(folder), Path(folder, name)
        self._limit, self._processes = limit, processes
        self.full = False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._measure()

    def _measure(self) -> None:
        """Count the bytes that are there, and set the share."""
        now, total, own = time.time(), 0, []
        for file in _files(self.root):
            with suppress(OSError):
                about = file.stat()
                if file.suffix != SUFFIX and now - about.st_mtime > _OLD:
                    file.unlink()
                    continue
                total += about.st_size
                if file.suffix == SUFFIX and self.folder in file.parents:
                    own.append(about.st_size)
        self.entries, self.size = len(own), sum(own)
        self._free = (self._limit - total) / self._processes

    def load(self, key: str) -> dict[str, Packed] | None:
        """Return the features of an image, or None."""
        try:
            with self._path(key).open('rb') as file:
                data = bytearray(os.fstat(file.fileno()).st_size)
                file.readinto(data)
            return _read(data)
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            return None

    def save(self, key: str, features: dict[str, Packed]) -> bool:
        """Write the features of an image, if there is room.

        Returns:
            Whether they are on disk.
        """
        if self.full:
            return False
        data = _written(features)
        if len(data) > self._free:
            self._remove_others()
            self.full = len(data) > self._free
        if self.full:
            return False
        path = self._path(key)
        draft = path.with_name(f'{key}.{secrets.token_hex(8)}.part')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            draft.replace(path)
        except OSError:
            # The disk is full before the folder is.
            self.full = True
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            return False
        self._free -= len(data)
        self.entries, self.size = self.entries + 1, self.size + len(data)
        return True

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f'{key}{SUFFIX}'

    def _remove_others(self) -> None:
        """Remove the entries of other bases, and nothing else."""
        for file in _files(self.root):
            if self.folder not in file.parents:
                with suppress(OSError):
                    file.unlink()
        for folder in self.root.iterdir():
            if _NAME.fullmatch(folder.name) and folder != self.folder:
                for empty in (*folder.glob('*'), folder):
                    with suppress(OSError):
                        empty.rmdir()
        self._measure()


def _files(root: Path) -> Iterator[Path]:
    """Yield entries and drafts of every base."""
    for folder in root.iterdir():
        if _NAME.fullmatch(folder.name):
            yield from folder.glob(f'??/*{SUFFIX}')
            yield from folder.glob('??/*.part')


def _written(features: dict[str, Packed]) -> bytearray:
    about, parts = [], []
    for name, packed in features.items():
        tensors = [packed.values]
        if packed.scale is not None:
            tensors.append(packed.scale)
        tensors = [t.detach().cpu().contiguous() for t in tensors]
        stored = [[str(t.dtype)[6:], list(t.shape)] for t in tensors]
        about.append([name, packed.dtype, stored])
        parts += [t.reshape(-1).view(torch.uint8).numpy() for t in tensors]
    text = json.dumps(about).encode()
    data = bytearray(_HEAD.size) + text
    for part in parts:
        data += bytes(-len(data) % _ALIGNED)
        data += memoryview(part)
    digest = zlib.crc32(memoryview(data)[_HEAD.size :])
    _HEAD.pack_into(data, 0, digest, len(text))
    return data


def _read(data: bytearray) -> dict[str, Packed]:
    digest, length = _HEAD.unpack_from(data)
    if digest != zlib.crc32(memoryview(data)[_HEAD.size :]):
        raise ValueError('torn')
    place = _HEAD.size + length
    features = {}
    for name, dtype, stored in json.loads(data[_HEAD.size : place]):
        tensors = []
        for kind, shape in stored:
            place += -place % _ALIGNED
            count, kind = math.prod(shape), getattr(torch, kind)
            tensors.append(
                torch.frombuffer(
                    data, dtype=kind, count=count, offset=place
                ).view(shape)
            )
            place += count * kind.itemsize
        features[name] = Packed(tensors[0], (*tensors, None)[1], dtype)
    return features
