"""The side highway of E3VA (ACM MM 2024, section 3.2).

Beside the frozen trunk l runs a stream e that starts as the patch embedding
and adds an adapted copy of each branch output of the trunk (equations 7, 8):

    e' = e + A1(f_P1(l)) + A2(f_P2(l + f_P1(l)))

At a patch merging, e goes through the trunk's own frozen layer. The trunk
never sees e, so nothing is back-propagated through it.

The adapters' inner skips add up to the trunk's own residuals, so over a
whole stage, with code_k = GELU(D_k x_k) s_k,

    e_out = l_out + (e_in - l_in) + [code_1 .. code_K] [t_1; ..; t_K] + sum b_k

which is one product instead of K, keeps the taps and their codes only, and
leaves e equal to l to the bit as long as every t_k and b_k is zero.
"""

from collections.abc import Callable
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .anatomy import Stage


class Highway(nn.Module):
    """A highway beside one trunk; several may share the trunk.

    Its hooks collect the state of one forward call of the trunk, and leave
    e behind a stage in ``outputs[stage]``; :meth:`clear` lets go of it.

    Args:
        stages: Anatomy of the trunk, down to the last stage that is an
            output.
        make_adapter: Width -> adapter with ``code``, ``up_t``, ``up_bias``.
        stacked: The ablation in which the second adapter reads the first:
            ``h = A1(e + f_P1(l)); e' = A2(h + f_P2(l + f_P1(l)))``.
        merging: Patch merging layers of its own, one for each but the last
            stage, instead of the trunk's.
    """

    def __init__(
        self,
        stages: list[Stage],
        make_adapter: Callable[[int], nn.Module],
        stacked: bool = False,
        merging: nn.ModuleList | None = None,
    ) -> None:
        super().__init__()
        self.stacked = stacked
        self.stages = nn.ModuleList()
        self.merging = merging
        self.outputs: dict[int, Tensor] = {}
        self.clear()
        for i, stage in enumerate(stages):
            blocks = nn.ModuleList()
            for j, block in enumerate(stage.blocks):
                sites = nn.ModuleDict()
                for site, branch in block.branches.items():
                    sites[site] = make_adapter(block.width)
                    branch.register_forward_hook(
                        partial(self._tap, i, j, site)
                    )
                blocks.append(sites)
            self.stages.append(blocks)
            stage.blocks[-1].module.register_forward_hook(
                partial(self._leave, i)
            )
            if i + 1 < len(stages):
                stage.downsample.register_forward_hook(partial(self._merge, i))
        stages[0].blocks[0].module.register_forward_pre_hook(self._enter)

    def clear(self) -> None:
        """Forget a call of the trunk. Call before and after each."""
        self.outputs = {}
        self._running = False
        # Parallel form: what the stage has added so far, and e_in - l_in.
        self._codes: list[Tensor] = []
        self._offset: Tensor | None = None
        # Stacked form: the stream itself.
        self._stream: Tensor | None = None

    def _enter(self, module: nn.Module, args: tuple) -> None:
        self.clear()
        self._running, self._stream = True, args[0]

    def _check(self) -> None:
        """Refuse a part of the trunk that runs again by itself."""
        if not self._running:
            raise RuntimeError(
                'a part of the trunk of E3VA runs outside of a forward pass, '
                'as activation checkpointing lets it in the backward pass. '
                'E3VA keeps nothing of its trunk: do not checkpoint it'
            )

    def _tap(
        self,
        i: int,
        j: int,
        site: str,
        module: nn.Module,
        args: tuple,
        out: Tensor,
    ) -> None:
        self._check()
        adapter = self.stages[i][j][site]
        if self.stacked:
            self._stream = adapter(self._stream + out)
        else:
            self._codes.append(adapter.code(out))

    def _leave(
        self, i: int, module: nn.Module, args: tuple, out: Tensor
    ) -> None:
        if self.stacked:
            self.outputs[i] = self._stream
            return
        adapters = [a for block in self.stages[i] for a in block.values()]
        # Side by side along the input of one layer, and biases one by one:
        # cut out of a stack, the gradients would share memory.
        added = F.linear(
            torch.cat(self._codes, -1),
            torch.cat([a.up_t.t() for a in adapters], 1),
            reduce(torch.add, [a.up_bias for a in adapters]),
        )
        if self._offset is not None:
            added = added + self._offset
        self._codes = []
        self.outputs[i] = out + added

    def _merge(
        self, i: int, module: nn.Module, args: tuple, out: tuple
    ) -> None:
        # .forward, because a call would come back to this hook.
        merging = module if self.merging is None else self.merging[i]
        stream, _ = merging.forward(self.outputs[i], *args[1:])
        if self.stacked:
            self._stream = stream
        else:
            self._offset = stream - out[0]
