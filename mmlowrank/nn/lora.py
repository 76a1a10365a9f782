"""LoRA on the fused query-key-value projection of an attention.

Paper: "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022:
W x becomes W x + (alpha / rank) B A x. The E3VA paper (ACM MM 2024) uses it
with a middle width of 64; its authors' later public code adapts q and v,
with rank 64 each, and leaves alpha at 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PARTS = ('q', 'k', 'v')


class LoRA(nn.Module):
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
        if not targets or not set(targets) <= set(_PARTS):
            raise ValueError(
                f'LoRA targets must be some of {_PARTS}, got {targets}'
            )
        self.embed_dims = embed_dims
        self.scale = (rank if alpha is None else alpha) / rank
        self.targets = tuple(part for part in _PARTS if part in targets)
        count = len(self.targets)
        self.A = nn.Parameter(torch.empty(count, rank, embed_dims))
        self.B = nn.Parameter(torch.empty(count, embed_dims, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A Kaiming-uniform (a = sqrt(5)), zero B."""
        bound = 1 / math.sqrt(self.embed_dims)
        nn.init.uniform_(self.A, -bound, bound)
        nn.init.zeros_(self.B)

    def forward(self, x: Tensor, qkv: Tensor) -> Tensor:
        """Return the updated projection.

        Args:
            x: (..., embed_dims), the input of the projection.
            qkv: (..., 3 * embed_dims), its frozen output.
        """
        codes = F.linear(x, self.A.flatten(0, 1)).chunk(len(self.targets), -1)
        parts = list(qkv.chunk(3, -1))
        for code, b, target in zip(codes, self.B, self.targets, strict=True):
            index = _PARTS.index(target)
            parts[index] = parts[index] + self.scale * F.linear(code, b)
        return torch.cat(parts, -1)

    def weight_update(self) -> Tensor:
        """Return what the frozen weight gains: (3 * d, d)."""
        update = self.A.new_zeros(3, self.embed_dims, self.embed_dims)
        for a, b, target in zip(self.A, self.B, self.targets, strict=True):
            update[_PARTS.index(target)] = self.scale * (b @ a)
        return update.flatten(0, 1)
