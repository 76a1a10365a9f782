"""Checkpoints by URL, of which two may have one name.

PyTorch's cache keeps a download under the last part of its URL, and takes
whatever has that name for it. ``https://a.org/swin/best.pth`` and
``https://b.org/vit/best.pth`` would be one file, in silence.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_http as load_by_name

from .whole_file import whole_file


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(
    filename: str, map_location: str | None = None
) -> dict[str, Any]:
    """Read a URL for mmengine, from the cache if it is there.

    The first URL of a name has that name, as do files that were put there by
    hand; a note beside it says which it was. Another has a folder of its own.

    Args:
        filename: The URL.
        map_location: A device.
    """
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    note = folder / f'{Path(urlparse(filename).path).name}.url'
    if note.is_file() and note.read_text() != filename:
        key = hashlib.sha256(filename.encode()).hexdigest()[:16]
        return load_by_name(filename, map_location, str(folder / key))
    checkpoint = load_by_name(filename, map_location)
    # The cache may be of another user, and another process may be faster.
    with suppress(OSError), whole_file(note) as draft:
        draft.write_text(filename)
    return checkpoint
