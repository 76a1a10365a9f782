"""Forward passes for where no gradient is wanted: fewer copies, fused kernels.

A CPU spends a third of a frozen Swin's time outside its matrix products:
shifting and cutting windows, adding bias and mask, and softmax each walk over
memory of their own. Values are those of the elementary operations up to the
order of the sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def _fused_product() -> Callable[..., Tensor] | None:
    """Return oneDNN's product, or None where it is not as we know it.

    PyTorch has no public name for it in float32; its own compiler calls it
    for frozen weights. On CPUs that MKL, behind ``F.linear``, does not know
    well it is twice as fast.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    product = getattr(torch.ops.mkldnn, '_linear_pointwise', None)
    try:
        one = product(torch.ones(1, 1), torch.ones(1, 1), None, 'none', [], '')
    except (TypeError, RuntimeError):
        return None
    return product if one.item() == 1 else None


_FUSED = _fused_product()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b`` without a graph: (..., d) -> (..., m)."""
    single = x.dtype == weight.dtype == torch.float32
    if _FUSED is not None and x.is_cpu and single:
        return _FUSED(x, weight, bias, 'none', [], '')
    return F.linear(x, weight, bias)


def over_rows(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left^T right`` without a graph: (n, p), (n, q) -> (p, q).

    oneDNN copies its first factor to turn it, and is up to four times slower
    where that is the wider one. A second factor that is cut out of a wider
    tensor, as gradients of a concatenation are, costs it a hundred times more
    than a copy.
    """
    if left.shape[1] <= right.shape[1]:
        return linear(left.t(), right.contiguous().t())
    return linear(right.t(), left.contiguous().t()).t()


@dataclass(frozen=True)
class Windows:
    """How the tokens of images are cut into shifted windows.

    Windows of a kind have the same mask and stand together: those inside,
    in the last column, in the last row, and in the corner.

    Attributes:
        size: Side of a window.
        sources: (windows * size^2,) row of each token, -1 for padding.
        places: (rows,) where each token is in ``sources``.
        padded: Whether there is padding.
        kinds: For each kind, its number of windows and its mask
            (size^2, size^2), None for no mask.
    """

    size: int
    sources: Tensor
    places: Tensor
    padded: bool
    kinds: tuple[tuple[int, Tensor | None], ...]

    def cut(self, x: Tensor) -> Tensor:
        """Gather the windows: (rows, d) -> (windows, size^2, d)."""
        if self.padded:
            out = x.new_zeros(len(self.sources), x.shape[1])
            out[self.places] = x
        else:
            out = x.index_select(0, self.sources)
        return out.view(-1, self.size**2, x.shape[1])

    def join(self, windows: Tensor) -> Tensor:
        """Undo :meth:`cut`: (windows, size^2, d) -> (rows, d)."""
        return windows.flatten(0, 1).index_select(0, self.places)


@lru_cache(maxsize=32)
def windows_of(
    batch: int, height: int, width: int, size: int, shift: int
) -> Windows:
    """Lay out the windows of Swin Transformer (ICCV 2021), figure 4.

    Args:
        batch: Number of images.
        height: Of the token map.
        width: Of the token map.
        size: Side of a window; the map is padded to a multiple of it.
        shift: By how many tokens the windows are shifted, or 0.
    """
    rows = torch.arange(batch * height * width).view(batch, height, width)
    right, below = -width % size, -height % size
    rows = F.pad(rows, (0, right, 0, below), value=-1)
    rows = rows.roll((-shift, -shift), (1, 2))
    down, across = rows.shape[1] // size, rows.shape[2] // size
    rows = rows.view(batch, down, size, across, size).permute(0, 1, 3, 2, 4)
    kind = torch.zeros(batch, down, across, dtype=torch.long)
    if shift:
        kind[:, :, -1] += 1
        kind[:, -1] += 2
    order = kind.flatten().argsort(stable=True)
    sources = rows.reshape(-1, size**2)[order].flatten()
    places = torch.empty(batch * height * width, dtype=torch.long)
    real = (sources >= 0).nonzero().squeeze(1)
    places[sources[real]] = real
    counts = kind.flatten().bincount(minlength=1).tolist()
    return Windows(
        size,
        sources,
        places,
        bool(right or below),
        tuple(
            (count, _mask(size, shift, bool(k & 1), bool(k & 2)))
            for k, count in enumerate(counts)
            if count
        ),
    )


def _mask(
    size: int, shift: int, last_column: bool, last_row: bool
) -> Tensor | None:
    """Return -100 between tokens that only the shift brought together."""
    if not (last_column or last_row):
        return None
    wrapped = torch.arange(size) >= size - shift
    region = torch.zeros(size, size)
    if last_column:
        region += wrapped
    if last_row:
        region += 2 * wrapped.unsqueeze(1)
    region = region.flatten()
    return (region.unsqueeze(0) != region.unsqueeze(1)) * -100.0


def window_attention(
    qkv: Tensor, bias: Tensor, windows: Windows, heads: int, scale: float
) -> Tensor:
    """Return softmax(scale q k^T + bias + mask) v in windows.

    Args:
        qkv: (windows, tokens, 3 * width).
        bias: (heads, tokens, tokens).
        windows: Their layout.
        heads: Number of heads; divides the width.
        scale: Factor of the scores.

    Returns:
        (windows, tokens, width).
    """
    number, tokens, _ = qkv.shape
    qkv = qkv.view(number, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    parts = qkv.split([count for count, _ in windows.kinds], dim=1)
    outs = []
    for (q, k, v), (_, mask) in zip(parts, windows.kinds, strict=True):
        term = bias if mask is None else bias + mask.to(bias.dtype)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=term.unsqueeze(0), scale=scale
        )
        outs.append(out.transpose(1, 2).flatten(2))
    return outs[0] if len(outs) == 1 else torch.cat(outs)
