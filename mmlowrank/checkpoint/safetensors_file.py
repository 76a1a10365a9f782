"""Read ``.safetensors`` files wherever mmengine takes a checkpoint.

The format, https://github.com/huggingface/safetensors, holds named tensors
and nothing that could run code. It has no place for a run's state, so such a
file serves ``init_cfg`` and ``load_from``, not ``resume``.
"""

from mmengine.fileio import get_local_path
from mmengine.runner import CheckpointLoader
from torch import Tensor

# mmengine tries patterns from Z to A. The first is tried before 'https://'
# and 'http://', the other before those of s3 and the file system.
_PATTERNS = (r'https?://.*\.safetensors($|\?)', r'.*\.safetensors$')


@CheckpointLoader.register_scheme(prefixes=_PATTERNS)
def load_from_safetensors(
    filename: str, map_location: str | None = None
) -> dict[str, dict[str, Tensor]]:
    """Read a ``.safetensors`` file for mmengine.

    Args:
        filename: A path, or what another file backend of mmengine reads. A
            URL is fetched each time: every hub calls its file the same.
        map_location: A device.

    Returns:
        ``state_dict``, the tensors by name.

    Raises:
        FileNotFoundError: If there is no such file.
        safetensors.SafetensorError: If it is not of this format.
    """
    # Here, because only these files need it.
    from safetensors.torch import load_file

    with get_local_path(filename) as path:
        tensors = load_file(path)
    device = map_location or 'cpu'
    return dict(state_dict={k: v.to(device) for k, v in tensors.items()})
