"""Count multiply-adds of a model, without allocating its weights.

Of matrix products and convolutions, one for each multiplication; as the LORS
and AdaMixer papers count decoders. Norms, activations and sampling, a
percent of a detector, are not counted.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import flop_counter


def _product(
    _: torch.Size, a: torch.Size, b: torch.Size, **kwargs: Any
) -> int:
    """Return the operations of ``out.addmm_(a, b)`` or ``baddbmm_``."""
    return 2 * math.prod(a) * b[-1]


# PyTorch has formulas for the functional forms only.
_IN_PLACE = {
    torch.ops.aten.addmm_: _product,
    torch.ops.aten.baddbmm_: _product,
}


@torch.no_grad()
def count_multiply_adds(
    model: nn.Module, shape: Sequence[int]
) -> dict[str, int]:
    """Count the multiply-adds of one image.

    Args:
        model: A detector, segmentor or classifier on the meta device, see
            :func:`.counting.build_on_meta`.
        shape: Height and width of the image.

    Returns:
        ``total``, and the name of each direct child that counts.

    Raises:
        ValueError: If the model is on another device, whose own kernels
            (oneDNN's products, fused attention) would not be counted.
    """
    device = next(model.parameters()).device
    if device.type != 'meta':
        raise ValueError(
            'multiply-adds are counted on the meta device, the model is on '
            f"{device}: build it with build_on_meta, or call model.to('meta')"
        )
    images = torch.empty(1, 3, *shape, device=device)
    counter = flop_counter.FlopCounterMode(
        display=False, custom_mapping=_IN_PLACE
    )
    # What is made once, such as merged weights, is not of an image.
    model(images, mode='tensor')
    with counter:
        model(images, mode='tensor')
    # The counter counts a multiplication and an addition as two.
    counts = {
        name: sum(operations.values()) // 2
        for name, operations in counter.get_flop_counts().items()
    }
    prefix = type(model).__name__
    children = {
        name: counts.get(f'{prefix}.{name}', 0)
        for name, _ in model.named_children()
    }
    return {
        'total': counts['Global'],
        **{name: count for name, count in children.items() if count},
    }
