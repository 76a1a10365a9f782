"""LoRA on the fused query-key-value projection of an attention, and others.

Paper: "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022:
W x becomes W x + (alpha / rank) B A x. The E3VA paper (ACM MM 2024) uses it
with a middle width of 64; its authors' later public code adapts q and v,
with rank 64 each, and leaves alpha at 1.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels.updates import low_rank_update

PARTS = ('q', 'k', 'v')


class LoRAUpdate(nn.Module):
    """Low-rank update of parts of a fused qkv projection.

    Args:
        embed_dims: Width d of the tokens.
        rank: Rank of the update of each part.
        alpha: The update is scaled by ``alpha / rank``. Defaults to
            ``rank``.
        targets: Parts of the projection that are updated.

    Attributes:
        A: (len(targets), rank, embed_dims).
        B: (len(targets), embed_dims, rank), zero at the start.

    Raises:
        ValueError: If the rank does not fit or a target is unknown.
    """

    def __init__(
        self,
        embed_dims: int,
        rank: int = 64,
        alpha: float | None = None,
        targets: tuple[str, ...] = ('q', 'v'),
    ) -> None:
        super().__init__()
        if not 1 <= rank <= embed_dims:
            raise ValueError(
                f'LoRA rank must be between 1 and the width {embed_dims}, '
                f'got rank={rank}'
            )
        if not targets or not set(targets) <= set(PARTS):
            raise ValueError(
                f'LoRA targets must be some of {PARTS}, got {targets}'
            )
        self.embed_dims = embed_dims
        self.rank = rank
        self.scale = (rank if alpha is None else alpha) / rank
        self.targets = tuple(part for part in PARTS if part in targets)
        count = len(self.targets)
        self.A = nn.Parameter(torch.empty(count, rank, embed_dims))
        self.B = nn.Parameter(torch.empty(count, embed_dims, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A Kaiming-uniform (a = sqrt(5)), zero B."""
        bound = 1 / math.sqrt(self.embed_dims)
        nn.init.uniform_(self.A, -bound, bound)
        nn.init.zeros_(self.B)

    def forward(
        self, x: Tensor, qkv: Tensor, in_place: bool = False
    ) -> Tensor:
        """Return the updated projection.

        Args:
            x: (..., embed_dims), the input of the projection.
            qkv: (..., 3 * embed_dims), its frozen output.
            in_place: Write into ``qkv``, which nobody else may have.
        """
        parts = [PARTS.index(target) for target in self.targets]
        return low_rank_update(
            x, qkv, self.A, self.B, self.scale, parts, in_place
        )

    def fold(
        self, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the projection that includes the update.

        Args:
            weight: (3 * d, d).
            bias: (3 * d,), or None.
        """
        updates = dict(zip(self.targets, self.B @ self.A, strict=True))
        rows = [
            part + self.scale * updates[name] if name in updates else part
            for name, part in zip(PARTS, weight.chunk(3), strict=True)
        ]
        return torch.cat(rows), bias


class LayerUpdate(nn.Module):
    """Low-rank update of one linear layer or convolution.

    Of a convolution, A is one of the same kernel with ``rank`` channels and
    B one of 1 x 1.

    Args:
        shape: Of the weight: (out, in) or (out, in, kernel, kernel).
        rank: Rank of the update.
        alpha: The update is scaled by ``alpha / rank``. Defaults to
            ``rank``.

    Attributes:
        A: (rank, in * kernel * kernel).
        B: (out, rank), zero at the start.

    Raises:
        ValueError: If the rank does not fit.
    """

    def __init__(
        self, shape: torch.Size, rank: int, alpha: float | None = None
    ) -> None:
        super().__init__()
        rows, columns = shape[0], shape[1:].numel()
        if not 1 <= rank <= min(rows, columns):
            raise ValueError(
                f'LoRA rank must be between 1 and {min(rows, columns)} for a '
                f'weight of {tuple(shape)}, got rank={rank}'
            )
        self.scale = (rank if alpha is None else alpha) / rank
        self.A = nn.Parameter(torch.empty(rank, columns))
        self.B = nn.Parameter(torch.empty(rows, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A Kaiming-uniform (a = sqrt(5)), zero B."""
        bound = 1 / math.sqrt(self.A.shape[1])
        nn.init.uniform_(self.A, -bound, bound)
        nn.init.zeros_(self.B)

    def forward(
        self,
        x: Tensor,
        out: Tensor,
        in_place: bool = False,
        conv: nn.Conv2d | None = None,
    ) -> Tensor:
        """Return the updated output.

        Args:
            x: (..., in), or (batch, in, h, w) of a convolution.
            out: The frozen layer's output.
            in_place: Write into ``out``, which nobody else may have.
            conv: The convolution, for its kernel, stride and padding.
        """
        if conv is None:
            A, B = self.A[None], self.B[None]
            return low_rank_update(x, out, A, B, self.scale, (0,), in_place)
        kernel = self.A.view(-1, *conv.weight.shape[1:])
        codes = F.conv2d(
            x, kernel, None, conv.stride, conv.padding, conv.dilation
        )
        update = F.conv2d(codes, self.B[..., None, None])
        return out + self.scale * update

    def fold(
        self, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the layer that includes the update.

        Args:
            weight: (out, in * kernel * kernel).
            bias: (out,), or None.
        """
        return weight + self.scale * (self.B @ self.A), bias


def fuse(
    A: Tensor, B: Tensor, targets: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return one pair of matrices for the whole projection.

    The A's stand below each other, the B's on the diagonal of the rows of
    their targets; the product is that of every target, and zero elsewhere.

    Args:
        A: (len(targets), rank, d).
        B: (len(targets), d, rank).
        targets: Parts of the projection.

    Returns:
        (len(targets) * rank, d) and (3 * d, len(targets) * rank).
    """
    count, rank, width = A.shape
    rows = B.new_zeros(len(PARTS), width, count, rank)
    for index, target in enumerate(targets):
        rows[PARTS.index(target), :, index] = B[index]
    return A.flatten(0, 1), rows.flatten(0, 1).flatten(1)


def split(
    a: Tensor, b: Tensor, rank: int, targets: Sequence[str]
) -> tuple[Tensor, Tensor] | None:
    """Return the pairs of the targets whose product is ``b @ a``.

    Either what :func:`fuse` has put together comes apart, or each target
    has all of ``a``.

    Args:
        a: (r, d).
        b: (3 * d, r).
        rank: Of each target.
        targets: Parts of the projection.

    Returns:
        A and B as of :class:`LoRAUpdate`, or None if they have not this rank
        or update more than these targets.
    """
    shared = len(a) == rank
    if not shared and len(a) != len(targets) * rank:
        return None
    rest, blocks = b.clone(), []
    for index, target in enumerate(targets):
        start = 0 if shared else index * rank
        rows = rest.chunk(len(PARTS))[PARTS.index(target)]
        block = rows[:, start : start + rank]
        blocks.append(block.clone())
        block.zero_()
    if rest.any():
        return None
    A = (
        a.expand(len(targets), -1, -1)
        if shared
        else a.unflatten(0, (-1, rank))
    )
    return A, torch.stack(blocks)
