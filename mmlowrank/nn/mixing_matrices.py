"""The mixing matrices of a query, plain and with LORS, and their backward.

Everything is group-major, (groups, queries, ...): with the factors of all K
terms side by side, the low-rank part is one product that accumulates into
the matrix that is already there, and no private matrix is ever formed. The
spatial matrix is laid out (in_points, out_points) as in the papers'
equations, so that both kinds of matrix are treated alike.

As in :mod:`.functional`, the function has a plain twin.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels.autograd import autocast, by_hand, through_twin, traced


class MixingSizes(NamedTuple):
    """Sizes of the mixing: AdaMixer's g, C, P_in and P_out."""

    groups: int
    channels: int
    in_points: int
    out_points: int

    @property
    def rows(self) -> int:
        """Numbers that the generator makes for a query."""
        return self.groups * (
            self.channels**2 + self.in_points * self.out_points
        )


class CastOnce:
    """Cast tensors to the autocast type, each of them once.

    The stages share weights: casting them in each stage would also keep a
    copy for each. One object serves one forward pass of all stages.
    """

    def __init__(self) -> None:
        # Keyed by identity, which is what a tensor's hash is.
        self._done: dict[Tensor, Tensor] = {}

    def __call__(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if tensor not in self._done:
            self._done[tensor] = autocast(tensor)[0]
        return self._done[tensor]


def by_hand_or_twin(
    function: type[torch.autograd.Function],
    twin: Callable[..., Any],
    *inputs: Any,
) -> Any:
    """Apply a function with a hand-written backward pass, or its stand-in.

    Where the operations are recorded that is the twin. Elsewhere, as where
    no gradient is, the forward pass itself, which consists of elementary
    operations and keeps less than the twin.
    """
    if by_hand(*inputs):
        return function.apply(*inputs)
    return (twin if traced() else function.forward)(*inputs)


def low_rank_terms(codes: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """Return ``sum_k B_k E_k A_k`` (LORS, equation 11) for each query.

    Args:
        codes: (queries, groups, K, r, r), the E.
        b: (groups, K, d, r).
        a: (groups, K, r, h).

    Returns:
        (groups, queries, d, h).
    """
    return torch.einsum('gkdr,qgkrs,gksh->gqdh', b, codes, a)


def generate_mixing_plain(
    query: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    codes: Tensor | None,
    channel_b: Tensor | None,
    channel_a: Tensor | None,
    spatial_b: Tensor | None,
    spatial_a: Tensor | None,
    sizes: MixingSizes,
) -> tuple[Tensor, Tensor]:
    """Return what :func:`generate_mixing` returns, under autograd.

    Written as figure 3 of the LORS paper: all terms of a query's weight are
    formed, concatenated and summed.
    """
    groups, channels, points, outs = sizes
    shared = None
    if weight is not None:
        shared = F.linear(query, weight, bias).unflatten(-1, (groups, -1))
    matrices = []
    for which, (d, h, b, a) in enumerate(
        (
            (channels, channels, channel_b, channel_a),
            (points, outs, spatial_b, spatial_a),
        )
    ):
        terms = []
        if shared is not None:
            start = which * channels**2
            term = shared[..., start : start + d * h]
            terms.append(term.unflatten(-1, (1, d, h)))
        if codes is not None:
            e = codes.unflatten(-1, (2, *b.shape[:2], *a.shape[2:3] * 2))
            terms.append(b @ e[:, which] @ a)
        matrices.append(torch.cat(terms, 2).sum(2).transpose(0, 1))
    return matrices[0], matrices[1]


def generate_mixing(
    query: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    codes: Tensor | None,
    channel_b: Tensor | None,
    channel_a: Tensor | None,
    spatial_b: Tensor | None,
    spatial_a: Tensor | None,
    sizes: MixingSizes,
) -> tuple[Tensor, Tensor]:
    """Return the channel and the spatial mixing matrices of each query.

    AdaMixer (CVPR 2022) makes them with a linear layer, equations 3 and 5 of
    the LORS paper; LORS adds ``sum_k B_k E_k A_k``, equations 9 to 12.
    Saves its inputs only.

    Args:
        query: (queries, D).
        weight: (rows, D) of the linear layer, where a group has the rows of
            its channel matrix (C, C), then of its spatial matrix
            (in_points, out_points); None for no such layer.
        bias: (rows,), or None.
        codes: (queries, 2 * groups * K * r * r), the E of the channel
            matrices, then those of the spatial ones; None for no low-rank
            part, as are then the next four.
        channel_b: (groups, K, C, r).
        channel_a: (groups, K, r, C).
        spatial_b: (groups, K, in_points, r).
        spatial_a: (groups, K, r, out_points).
        sizes: Of the mixing.

    Returns:
        (groups, queries, C, C) and (groups, queries, in_points, out_points).
        Under autocast in the autocast type.
    """
    tensors = (query, weight, bias, codes)
    factors = (channel_b, channel_a, spatial_b, spatial_a)
    cast = CastOnce()
    return by_hand_or_twin(
        *(_GenerateMixing, generate_mixing_plain),
        *(*map(cast, tensors + factors), sizes),
    )


class _GenerateMixing(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        query, weight, bias, codes, *factors, sizes = inputs
        outputs = []
        for which, (d, h, rows) in enumerate(_matrices(sizes)):
            if weight is None:
                out = query.new_zeros(sizes.groups, len(query), d * h)
            else:
                many = query.expand(sizes.groups, -1, -1)
                part = _of_groups(weight, sizes)[:, rows].mT
                if bias is None:
                    out = many @ part
                else:
                    start = _of_groups(bias, sizes)[:, None, rows]
                    out = torch.baddbmm(start, many, part)
            if codes is not None:
                b, a = factors[2 * which : 2 * which + 2]
                left = _left(b, _codes_of(codes, b, which))
                flat = out.view(sizes.groups, -1, h)
                flat.baddbmm_(left, a.flatten(1, 2))
            outputs.append(out.view(sizes.groups, len(query), d, h))
        return outputs[0], outputs[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.sizes = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, weight, bias, codes, *factors = ctx.saved_tensors
        sizes = ctx.sizes
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, sizes)
            return through_twin(generate_mixing_plain, ctx, inputs, grads)
        need_query, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_query = grad_weight = grad_bias = grad_codes = None
        grad_factors: list[Tensor | None] = [None] * 4
        if weight is not None:
            grad_query = torch.zeros_like(query) if need_query else None
            grad_weight = torch.empty_like(weight) if need_weight else None
            grad_bias = torch.empty_like(bias) if need_bias else None
        if codes is not None:
            grad_codes = torch.empty_like(codes)
        for which, (_, h, rows) in enumerate(_matrices(sizes)):
            grad = grads[which].contiguous()
            flat = grad.view(sizes.groups, len(query), -1)
            if grad_query is not None:
                for group, part in enumerate(_of_groups(weight, sizes)):
                    grad_query.addmm_(flat[group], part[rows])
            if grad_weight is not None:
                for group, part in enumerate(_of_groups(grad_weight, sizes)):
                    torch.mm(flat[group].t(), query, out=part[rows])
            if grad_bias is not None:
                _of_groups(grad_bias, sizes)[:, rows] = flat.sum(1)
            if codes is not None:
                b, a = factors[2 * which : 2 * which + 2]
                e = _codes_of(codes, b, which)
                flat = grad.view(sizes.groups, -1, h)
                grad_a = _left(b, e).mT @ flat
                grad_left = flat @ a.flatten(1, 2).mT
                grad_left = grad_left.view(*grad.shape[:3], *a.shape[1:3])
                grad_factors[2 * which : 2 * which + 2] = (
                    torch.einsum('gqdks,qgkrs->gkdr', grad_left, e),
                    grad_a.view_as(a),
                )
                _codes_of(grad_codes, b, which).copy_(
                    torch.einsum('gkdr,gqdks->qgkrs', b, grad_left)
                )
        rest = (grad_bias, grad_codes, *grad_factors)
        return grad_query, grad_weight, *rest, None


def _matrices(sizes: MixingSizes) -> tuple[tuple[int, int, slice], ...]:
    """Return height, width and generator rows of the two matrices."""
    _, channels, points, outs = sizes
    channel = channels**2
    return (
        (channels, channels, slice(0, channel)),
        (points, outs, slice(channel, channel + points * outs)),
    )


def _of_groups(rows: Tensor, sizes: MixingSizes) -> Tensor:
    """View generator rows as (groups, rows of a group, ...)."""
    return rows.view(sizes.groups, -1, *rows.shape[1:])


def _codes_of(codes: Tensor, b: Tensor, which: int) -> Tensor:
    """View the codes of one kind of matrix: (queries, groups, K, r, r)."""
    groups, terms, _, rank = b.shape
    return codes.view(-1, 2, groups, terms, rank, rank)[:, which]


def _left(b: Tensor, codes: Tensor) -> Tensor:
    """Return all B_k E_k, side by side: (groups, queries * d, K * r)."""
    left = torch.einsum('gkdr,qgkrs->gqdks', b, codes)
    return left.flatten(3).flatten(1, 2)
