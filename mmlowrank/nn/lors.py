"""LORS: stacked layers share one weight, each adds a low-rank residual.

Paper: "LORS: Low-rank Residual Structure for Parameter-Efficient Network
Stacking", CVPR 2024, equations 7 to 12. Stage i of N uses

    static (LORS^T):    W_i = W_shared + sum_k B_ik A_ik,
    adaptive (LORS^A):  W_i(q) = W_shared(q) + sum_k B_ik E_ik(q) A_ik,

where W_shared and the small E are linear functions of the query q.

Where the paper is silent or differs from the authors' public code we follow
the code, by default: the linear layers that make W_shared(q) and E have
biases; the static part has a private bias in each stage and no shared one;
``init='official'`` is the code's start. ``init='paper'`` is section 4.1,
read as Kaiming initialisation of each matrix with the size it contracts as
its fan. The paper's counts need ``bias=False`` in the adaptive part.
Neither start can learn without a shared part, because M and S are zero then
and stay so; there, E starts as a generator of AdaMixer does.

Both are mergeable: E is linear in q, so ``merged(stage)`` is one plain
linear layer for the adaptive part too.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mixing_matrices import (
    CastOnce,
    MixingSizes,
    generate_mixing,
    low_rank_terms,
)
from .stages import per_stage

INITS = ('official', 'paper')
PARTS = ('both', 'shared', 'private')
OUTPUT_BIASES = ('private', 'shared', 'none')
# How many stages there are, errors say together with who says so.
_GIVEN = ', by num_stages'


class LORSStatic(nn.Module):
    """LORS^T: linear layers of N stages that share a weight (equation 8).

    Args:
        in_features: Width of the input (the paper's d).
        out_features: Width of the output (h).
        num_stages: Number of stacked layers (N).
        rank: Rank of a term (r), one number or one for each stage.
        terms: Number of terms (K), one number or one for each stage.
        bias: ``'private'``, one for each stage; ``'shared'``; or ``'none'``.
        init: ``'official'`` or ``'paper'``.

    Attributes:
        weight: (out_features, in_features), shared.
        bias: (out_features,) where it is shared.
        B: of each stage (in_features, K * r), the terms side by side.
        A: of each stage (K * r, out_features); zero at the start.
        biases: of each stage (out_features,) where they are private.

    Raises:
        ValueError: If an option is unknown, or a list has not one entry for
            each stage.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_stages: int = 6,
        rank: int | Sequence[int] = 8,
        terms: int | Sequence[int] = 1,
        bias: str = 'private',
        init: str = 'official',
    ) -> None:
        super().__init__()
        ranks = per_stage('LORS^T rank', rank, num_stages, _GIVEN)
        counts = per_stage('LORS^T terms', terms, num_stages, _GIVEN)
        _check('bias', bias, OUTPUT_BIASES)
        _check('init', init, INITS)
        self.init = init
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        widths = [r * k for r, k in zip(ranks, counts, strict=True)]
        self.B = _parameters((in_features, width) for width in widths)
        self.A = _parameters((width, out_features) for width in widths)
        self.bias = self.biases = None
        if bias == 'shared':
            self.bias = nn.Parameter(torch.empty(out_features))
        elif bias == 'private':
            self.biases = _parameters([(out_features,)] * num_stages)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights; each stage starts with the shared one."""
        fan_in = self.weight.shape[1]
        # The code leaves the shared weight as nn.Linear draws it, which is
        # Kaiming with a = sqrt(5); the paper says Kaiming.
        gain = 6 if self.init == 'paper' else 1
        _uniform(self.weight, gain / fan_in)
        for b in self.B:
            _uniform(b, 6 / fan_in)
        for tensor in (self.bias, *self.A, *(self.biases or ())):
            if tensor is not None:
                nn.init.zeros_(tensor)

    def tensors(
        self, stage: int
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return the weight, bias, B and A that a stage uses."""
        bias = self.bias if self.biases is None else self.biases[stage]
        return self.weight, bias, self.B[stage], self.A[stage]

    def forward(self, x: Tensor, stage: int) -> Tensor:
        """Apply the layer of a stage, without forming its matrix.

        Args:
            x: (..., in_features).
            stage: Index of the stage.

        Returns:
            (..., out_features).
        """
        weight, bias, b, a = self.tensors(stage)
        return F.linear(x, weight, bias) + (x @ b) @ a

    def effective(self, stage: int) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the linear layer that a stage is.

        Differentiable. The weight takes ``in * rank * out`` products, where
        :meth:`forward` takes ``rows * rank * (in + out)``: more of them from
        ``in * out / (in + out)`` rows on.
        """
        weight, bias, b, a = self.tensors(stage)
        return torch.addmm(weight, a.t(), b.t()), bias

    @torch.no_grad()
    def merged(self, stage: int) -> tuple[Tensor, Tensor]:
        """Return what :meth:`effective` does, to be kept.

        AdaMixer's layer has a bias; where there is none here, it is zero.
        """
        weight, bias = self.effective(stage)
        return weight, weight.new_zeros(len(weight)) if bias is None else bias


class LORSAdaptive(nn.Module):
    """LORS^A: generators of mixing matrices that share one (equation 11).

    Each of the N stages makes, for each query and each group of channels, a
    channel matrix M (C x C) and a spatial matrix S (in_points x out_points).

    Args:
        embed_dims: Width of a query (d_q).
        sizes: Groups, channels of a group, points in and out.
        num_stages: Number of stacked generators (N).
        rank: Rank of a term (r), one number or one for each stage.
        terms: Number of terms (K), one number or one for each stage.
        parts: ``'both'``, or one of ``'shared'`` and ``'private'``: the
            ablation of table 5.
        bias: Whether the linear layers have biases.
        init: ``'official'`` or ``'paper'``.

    Attributes:
        shared: Linear layer from a query to M and S of all groups.
        private: of each stage the factors and the linear layer to its E.

    Raises:
        ValueError: If an option is unknown, or a list has not one entry for
            each stage.
    """

    def __init__(
        self,
        embed_dims: int,
        sizes: MixingSizes,
        num_stages: int = 6,
        rank: int | Sequence[int] = 16,
        terms: int | Sequence[int] = (1, 1, 2, 2, 3, 3),
        parts: str = 'both',
        bias: bool = True,
        init: str = 'official',
    ) -> None:
        super().__init__()
        ranks = per_stage('LORS^A rank', rank, num_stages, _GIVEN)
        counts = per_stage('LORS^A terms', terms, num_stages, _GIVEN)
        _check('parts', parts, PARTS)
        _check('init', init, INITS)
        self.sizes, self.init = sizes, init
        self.shared = self.private = None
        if parts != 'private':
            self.shared = nn.Linear(embed_dims, sizes.rows, bias=bias)
        if parts != 'shared':
            self.private = nn.ModuleList(
                _Private(embed_dims, sizes, r, k, bias, init)
                for r, k in zip(ranks, counts, strict=True)
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights; beside a shared part, private ones are zero."""
        if self.shared is not None:
            self.shared.reset_parameters()
            if self.init == 'paper':
                nn.init.kaiming_uniform_(self.shared.weight)
            else:
                start_alike(self.shared)
        for private in self.private or ():
            private.reset_parameters()
            if self.shared is None:
                private.E.reset_parameters()
                start_alike(private.E)

    def forward(
        self, query: Tensor, stage: int, cast: CastOnce
    ) -> tuple[Tensor, Tensor]:
        """Make the mixing matrices of a stage.

        Args:
            query: (queries, embed_dims).
            stage: Index of the stage.
            cast: Shared by the stages of one forward pass.

        Returns:
            (groups, queries, C, C) and
            (groups, queries, in_points, out_points).
        """
        return generate_mixing(
            query, *self.tensors(query, stage, cast), self.sizes
        )

    def tensors(
        self, query: Tensor, stage: int, cast: CastOnce
    ) -> tuple[Tensor | None, ...]:
        """Return what a stage makes its matrices of.

        The shared weight and bias, the codes E and the four factors, None
        where there are none; see :func:`.mixing_matrices.generate_mixing`.
        """
        weight = bias = codes = None
        factors: Sequence[Tensor | None] = [None] * 4
        if self.shared is not None:
            weight, bias = cast(self.shared.weight), cast(self.shared.bias)
        if self.private is not None:
            codes = self.private[stage].E(query)
            factors = self.private[stage].factors()
        return weight, bias, codes, *factors

    @torch.no_grad()
    def merged(self, stage: int) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the linear layer that a stage is.

        The E are linear in the query, so the columns of the private part are
        what it makes of the unit queries.
        """
        weight = bias = 0
        if self.shared is not None:
            weight, bias = self.shared.weight, self.shared.bias
        if self.private is not None:
            private = self.private[stage]
            weight = weight + private.rows(private.E.weight.t()).t()
            if private.E.bias is not None:
                bias = bias + private.rows(private.E.bias[None])[0]
        return weight, bias if isinstance(bias, Tensor) else None


def start_alike(generator: nn.Linear) -> None:
    """Let a generator make the same matrices for all queries at first.

    AdaMixer's start: only the bias is left. A generator without one keeps
    its weight: if M and S were zero, behind them a ReLU would stand at zero,
    and no gradient would ever pass.
    """
    if generator.bias is not None:
        nn.init.zeros_(generator.weight)


class _Private(nn.Module):
    """The private part of a stage: the factors, and the layer to the E.

    Rows of E: those of the channel matrices, then of the spatial ones; in
    each by group, term, row and column.
    """

    def __init__(
        self,
        embed_dims: int,
        sizes: MixingSizes,
        rank: int,
        terms: int,
        bias: bool,
        init: str,
    ) -> None:
        super().__init__()
        groups, channels, points, outs = sizes
        self.init = init
        self.E = nn.Linear(embed_dims, 2 * groups * terms * rank**2, bias=bias)

        def factor(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(groups, terms, *shape))

        self.channel_B = factor(channels, rank)
        self.channel_A = factor(rank, channels)
        self.spatial_B = factor(points, rank)
        self.spatial_A = factor(rank, outs)

    def reset_parameters(self) -> None:
        """Draw the factors, zero the E."""
        nn.init.zeros_(self.E.weight)
        if self.E.bias is not None:
            nn.init.zeros_(self.E.bias)
        for factor in self.factors():
            d, r = factor.shape[2:]
            # The code draws all matrices as one three-dimensional tensor,
            # whose fan is the product of the sizes of a matrix.
            _uniform(factor, 6 / (d if self.init == 'paper' else d * r))

    def factors(self) -> tuple[Tensor, ...]:
        """Return B and A of the channel and of the spatial matrices."""
        return self.channel_B, self.channel_A, self.spatial_B, self.spatial_A

    def rows(self, codes: Tensor) -> Tensor:
        """Return the private matrices in the order of a generator's rows.

        Args:
            codes: (queries, rows of E).

        Returns:
            (queries, rows of the generator).
        """
        groups, terms, _, rank = self.channel_B.shape
        e = codes.view(-1, 2, groups, terms, rank, rank)
        channel = low_rank_terms(e[:, 0], self.channel_B, self.channel_A)
        spatial = low_rank_terms(e[:, 1], self.spatial_B, self.spatial_A)
        both = torch.cat([channel.flatten(2), spatial.flatten(2)], 2)
        return both.transpose(0, 1).flatten(1)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f'LORS has no {name}={value!r}; it knows {known}')


def _parameters(shapes: object) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.empty(s)) for s in shapes)


def _uniform(tensor: Tensor, square: float) -> None:
    bound = math.sqrt(square)
    nn.init.uniform_(tensor, -bound, bound)
