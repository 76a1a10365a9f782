"""FacT-TK: one Tucker-factorised update of all weights of a ViT.

Paper: "FacT: Factor-Tuning for Lightweight Adaptation on Vision
Transformer", AAAI 2023, section 3.3. The q, k, v and output projections and
the two MLP weights, cut into d x d blocks, are stacked to a tensor of 12 L
matrices for a ViT of L blocks. Its update is

    dW_i = s U (sum_j P_ij C_j) V^T

with U and V (d, r), P (12 L, r) and C (r, r, r): 2 d r + 12 L r + r^3
numbers for the whole network. V starts at zero, so the update does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FacTFactors(nn.Module):
    """The factors, and the updates they stand for.

    A linear layer is named by ``blocks``, the range of its d x d blocks in
    the stack. Where the layer is wider than high, they lie side by side
    along its input, else along its output.

    Args:
        embed_dims: d.
        matrices: Number of d x d blocks, 12 L.
        rank: r.
        scale: s.

    Attributes:
        U: (d, r).
        V: (d, r), zero at the start.
        P: (matrices, r).
        C: (r, r, r).

    Raises:
        ValueError: If the rank does not fit.
    """

    def __init__(
        self,
        embed_dims: int,
        matrices: int,
        rank: int = 16,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not 1 <= rank <= embed_dims:
            raise ValueError(
                f'FacT rank must be between 1 and the width {embed_dims}, '
                f'got rank={rank}'
            )
        self.scale = scale
        self.U = nn.Parameter(torch.empty(embed_dims, rank))
        self.V = nn.Parameter(torch.empty(embed_dims, rank))
        self.P = nn.Parameter(torch.empty(matrices, rank))
        self.C = nn.Parameter(torch.empty(rank, rank, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw U, P and C Xavier-uniform, zero V."""
        for factor in (self.U, self.P, self.C):
            nn.init.xavier_uniform_(factor)
        nn.init.zeros_(self.V)

    def forward(self, x: Tensor, blocks: range) -> Tensor:
        """Return what the output of a linear layer gains.

        Args:
            x: (..., in), its input; in is d or d times the blocks.
            blocks: Of the layer.

        Returns:
            (..., out); out is d times the blocks where in is d, else d.
        """
        core = self._core(blocks)
        width = self.U.shape[0]
        codes = x.unflatten(-1, (-1, width)) @ self.U
        if x.shape[-1] == width:
            # (..., 1, r) x (k, r, r) -> (..., k, r)
            codes = torch.einsum('...xr,krs->...ks', codes, core)
            return F.linear(codes, self.V).flatten(-2)
        return F.linear(torch.einsum('...kr,krs->...s', codes, core), self.V)

    def fold(
        self, weight: Tensor, bias: Tensor | None, blocks: range
    ) -> tuple[Tensor, Tensor | None]:
        """Return the linear layer that includes the update.

        Args:
            weight: (out, in), d times the blocks in its larger dimension.
            bias: (out,), or None.
            blocks: Of the layer.
        """
        updates = self.V @ self._core(blocks).mT @ self.U.t()
        if weight.shape[1] > weight.shape[0]:
            return weight + torch.cat(list(updates), 1), bias
        return weight + updates.flatten(0, 1), bias

    def _core(self, blocks: range) -> Tensor:
        """Return s sum_j P_ij C_j of some blocks: (len(blocks), r, r)."""
        rows = self.P[blocks.start : blocks.stop]
        return self.scale * torch.einsum('kj,jrs->krs', rows, self.C)
