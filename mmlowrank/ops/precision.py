"""Half precision in the stand-ins."""

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """Return it in single precision at least.

    Kernels of torchvision take no bfloat16, and on a CPU no float16.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
