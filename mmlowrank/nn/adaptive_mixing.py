"""The adaptive mixing of all decoder stages: AdaMixer, and with LORS.

AdaMixer (CVPR 2022) gives each stage a generator of mixing matrices and an
output projection of its own. LORS (CVPR 2024) replaces either by one module
that serves all stages; see :mod:`.lors`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .kernels.autograd import made_again, no_autocast, traced
from .lors import LORSAdaptive, LORSStatic, start_alike
from .mixing import adaptive_mixing
from .mixing_matrices import CastOnce, MixingSizes, generate_mixing


class StackedGenerators(nn.ModuleList):
    """AdaMixer's generators of mixing matrices: a linear layer a stage.

    Args:
        linears: From a query to the numbers of both matrices of all groups.
        sizes: Groups, channels of a group, points in and out.
    """

    def __init__(
        self, linears: Iterable[nn.Linear], sizes: MixingSizes
    ) -> None:
        super().__init__(linears)
        self.sizes = sizes

    def forward(
        self, query: Tensor, stage: int, cast: CastOnce
    ) -> tuple[Tensor, Tensor]:
        """Make the mixing matrices; see :meth:`LORSAdaptive.forward`."""
        return generate_mixing(
            query, *self.tensors(query, stage, cast), self.sizes
        )

    def tensors(
        self, query: Tensor, stage: int, cast: CastOnce
    ) -> tuple[Tensor | None, ...]:
        """Return weight and bias; see :meth:`LORSAdaptive.tensors`."""
        linear = self[stage]
        return cast(linear.weight), cast(linear.bias), *[None] * 5


class StackedOutputs(nn.ModuleList):
    """AdaMixer's output projections: a linear layer a stage.

    Args:
        linears: From the mixed samples of a query to a query.
    """

    def tensors(self, stage: int) -> tuple[Tensor, Tensor | None, None, None]:
        """Return weight and bias; see :meth:`LORSStatic.tensors`."""
        return self[stage].weight, self[stage].bias, None, None


class AdaptiveMixing(nn.Module):
    """Adaptive mixing of the samples of each query, for all stages.

    Args:
        generator: Makes the mixing matrices: ``StackedGenerators`` or
            ``LORSAdaptive``.
        output: Projects what is mixed: ``StackedOutputs`` or ``LORSStatic``.
        num_stages: Number of stages.
        merge_at_eval: Fold what LORS adds into plain linear layers at the
            first forward pass after ``eval()`` that needs no gradient and
            that nothing traces. Costs the memory of the plain weights and
            saves the low-rank products. Dropped by every ``train()`` and
            ``eval()``, and made anew when a parameter was changed in place or
            moved. Writing to a parameter's ``.data`` goes unseen until then.
        with_cp: Keep no mixing matrices for the backward pass; make them
            again there.
    """

    def __init__(
        self,
        generator: StackedGenerators | LORSAdaptive,
        output: StackedOutputs | LORSStatic,
        num_stages: int = 6,
        merge_at_eval: bool = True,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.generator, self.output = generator, output
        self.num_stages = num_stages
        self.merge_at_eval, self.with_cp = merge_at_eval, with_cp
        # The parameters' state when merged, and the plain mixing.
        self._merged: tuple[list, AdaptiveMixing] | None = None

    def forward(
        self, x: Tensor, query: Tensor, stage: int, cast: CastOnce
    ) -> Tensor:
        """Mix and project.

        Args:
            x: (groups, queries, in_points, C), the samples.
            query: (queries, embed_dims).
            stage: Index of the stage.
            cast: Shared by the stages of one forward pass.

        Returns:
            (queries, embed_dims), to be added to the query.
        """
        merge = self.merge_at_eval and self.is_lors and not self.training
        # What is made while tracing belongs to the trace and cannot be kept.
        if merge and not (torch.is_grad_enabled() or traced()):
            return self._merged_once()._mix(x, query, stage, cast)
        if self.with_cp:
            return made_again(self._mix, x, query, stage, cast)
        return self._mix(x, query, stage, cast)

    def _mix(
        self, x: Tensor, query: Tensor, stage: int, cast: CastOnce
    ) -> Tensor:
        channel, spatial = self.generator(query, stage, cast)
        weight, bias, b, a = self.output.tensors(stage)
        return adaptive_mixing(
            x, channel, spatial, cast(weight), cast(bias), b, a
        )

    @property
    def is_lors(self) -> bool:
        """Whether stages share weights, so that there is what to merge."""
        return isinstance(self.generator, LORSAdaptive) or isinstance(
            self.output, LORSStatic
        )

    def merged(self) -> 'AdaptiveMixing':
        """Return AdaMixer's own mixing with the weights that LORS adds up to.

        Its parameters do not train. Parts without LORS are not copied.
        """
        generator, output = self.generator, self.output
        # The weights are kept, so they shall not depend on who asked first.
        with no_autocast(next(self.parameters()).device):
            if isinstance(generator, LORSAdaptive):
                linears = _linears(generator, self.num_stages)
                generator = StackedGenerators(linears, generator.sizes)
            if isinstance(output, LORSStatic):
                output = StackedOutputs(_linears(output, self.num_stages))
        merged = AdaptiveMixing(generator, output, self.num_stages)
        return merged.train(self.training)

    def _merged_once(self) -> 'AdaptiveMixing':
        # In-place changes, such as loading, count up a parameter's version;
        # a new ``.data`` has another storage. Parameters made in inference
        # mode have no version.
        state = [
            (0 if p.is_inference() else p._version, p.data_ptr())
            for p in self.parameters()
        ]
        if self._merged is None or self._merged[0] != state:
            self._merged = state, self.merged()
        return self._merged[1]

    def train(self, mode: bool = True) -> 'AdaptiveMixing':
        """Set the mode and drop the merged weights.

        Before it, weights may have been written where they are not seen to
        change: an averaged model's are (mmengine's EMAHook).
        """
        self._merged = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> 'AdaptiveMixing':
        # Its memory shall not stay where the parameters have left.
        self._merged = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _merged=None)


def build_mixing(
    embed_dims: int,
    sizes: MixingSizes,
    num_stages: int = 6,
    adaptive: dict | None = None,
    static: dict | None = None,
    generator_bias: bool = True,
    **kwargs: bool,
) -> AdaptiveMixing:
    """Build the mixing of a decoder, with its start.

    AdaMixer's generators start with zero weights and the biases of
    nn.Linear: the matrices are then the same for all queries. (Without
    biases the weights are nn.Linear's, since from zero matrices nothing
    learns.) Its output projections start with Xavier weights.

    Args:
        embed_dims: Width of a query (D).
        sizes: Groups, channels of a group, points in and out.
        num_stages: Number of stages.
        adaptive: Options of :class:`LORSAdaptive`; None for a generator in
            each stage.
        static: Options of :class:`LORSStatic`; None for an output
            projection in each stage.
        generator_bias: Whether the linear layers that make the matrices have
            biases, with LORS and without.
        **kwargs: ``merge_at_eval`` and ``with_cp`` of
            :class:`AdaptiveMixing`.
    """
    width = sizes.groups * sizes.out_points * sizes.channels
    stages = range(num_stages)
    if adaptive is not None:
        generator = LORSAdaptive(
            embed_dims, sizes, num_stages, bias=generator_bias, **adaptive
        )
    else:
        linears = [
            nn.Linear(embed_dims, sizes.rows, bias=generator_bias)
            for _ in stages
        ]
        generator = StackedGenerators(linears, sizes)
        for linear in generator:
            start_alike(linear)
    if static is not None:
        output = LORSStatic(width, embed_dims, num_stages, **static)
    else:
        output = StackedOutputs(nn.Linear(width, embed_dims) for _ in stages)
        for linear in output:
            nn.init.xavier_uniform_(linear.weight)
    return AdaptiveMixing(generator, output, num_stages, **kwargs)


def _linears(
    lors: LORSAdaptive | LORSStatic, num_stages: int
) -> list[nn.Linear]:
    """Return the linear layers that the stages of LORS are."""
    linears = []
    for stage in range(num_stages):
        weight, bias = lors.merged(stage)
        linear = nn.Linear(*weight.shape[::-1], bias=False, device='meta')
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
        linears.append(linear)
    return linears
