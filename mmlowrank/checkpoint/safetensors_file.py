"""Read ``.safetensors`` files wherever mmengine takes a checkpoint.

The format, https://github.com/huggingface/safetensors, holds named tensors
and nothing that could run code. It has no place for a run's state, so such a
file serves ``init_cfg`` and ``load_from``, not ``resume``. An adapter file is
one of these, which the tuned backbone completes (:mod:`.adapter_checks`).
"""

from mmengine.fileio import get_local_path
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .adapter_checks import checkpoint_of_adapter
from .adapter_file import is_adapter, read

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
        AdapterError: If it is damaged, or not of this format.
    """
    # Here, because only these files need it.
    from safetensors.torch import load_file

    with get_local_path(filename) as path:
        if is_adapter(path):
            checkpoint = checkpoint_of_adapter(read(path), filename)
        else:
            checkpoint = dict(state_dict=load_file(path))
    state_dict, device = checkpoint['state_dict'], map_location or 'cpu'
    for name, tensor in state_dict.items():
        state_dict[name] = tensor.to(device)
    return checkpoint
