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

from collections.abc import Callable, Collection, Sequence
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..families import Family
from ..families.anatomy import as_it_is, moved


class Highway(nn.Module):
    """A highway beside one trunk; several may share the trunk.

    Its hooks collect the state of one forward call of the trunk, and leave
    what an output is to be made of in ``outputs[position]``: e, and l for
    comparison, in the trunk's layout. :meth:`clear` lets go of it.

    Args:
        trunk: The trunk.
        make_adapter: Width and index of the stage -> adapter with ``code``,
            ``up_t``, ``up_bias``.
        places: For each block the branches that have an adapter. The others
            are added as they are.
        maps: Whether adapters read maps, (batch, height, width, channels).
        stacked: The ablation in which the second adapter reads the first:
            ``h = A1(e + f_P1(l)); e' = A2(h + f_P2(l + f_P1(l)))``.
        merging: Patch merging layers of its own, one for each but the last
            stage, instead of the trunk's.
    """

    def __init__(
        self,
        trunk: Family,
        make_adapter: Callable[[int, int], nn.Module],
        places: Sequence[Collection[str]],
        maps: bool = False,
        stacked: bool = False,
        merging: nn.ModuleList | None = None,
    ) -> None:
        super().__init__()
        self.stacked = stacked
        self.channels = trunk.channels
        self.stages = nn.ModuleList()
        self.merging = merging
        self.outputs: dict[int, tuple[Tensor, Tensor]] = {}
        self.clear()
        positions = {o.after: p for p, o in enumerate(trunk.outputs)}
        places = iter(places)
        for i, stage in enumerate(trunk.stages):
            blocks = nn.ModuleList()
            for j, block in enumerate(stage.blocks):
                sites = nn.ModuleDict()
                adapted = next(places)
                run = block.over_maps() if maps and adapted else as_it_is
                for site, branch in block.branches.items():
                    if site in adapted:
                        sites[site] = make_adapter(block.width, i)
                    branch.output.read(partial(self._tap, i, j, site, run))
                blocks.append(sites)
                last = j == len(stage.blocks) - 1
                if last or (i, j) in positions:
                    leave = partial(self._leave, i, positions.get((i, j)))
                    block.module.register_forward_hook(leave)
            self.stages.append(blocks)
            if i and stacked:
                stage.blocks[0].module.register_forward_pre_hook(self._begin)
            if stage.merging is not None:
                merge = partial(self._merge, i, stage.merging.run)
                stage.merging.module.register_forward_hook(merge)
        first = trunk.blocks[0].module
        first.register_forward_pre_hook(self._enter)

    def clear(self) -> None:
        """Forget a call of the trunk. Call before and after each."""
        self.outputs = {}
        self._running = False
        # e - l where e was last made.
        self._offset: Tensor | None = None
        # Parallel form: codes and adapters since then.
        self._codes: list[Tensor] = []
        self._adapters: list[nn.Module] = []
        # Stacked form: the stream itself.
        self._stream: Tensor | None = None
        # e behind a stage.
        self._behind: Tensor | None = None

    def _enter(self, module: nn.Module, args: tuple) -> None:
        self.clear()
        self._running = True
        self._stream = moved(args[0], self.channels, -1)

    def _check(self) -> None:
        """Refuse a part of the trunk that runs again by itself."""
        if not self._running:
            raise RuntimeError(
                'a part of the trunk of E3VA runs outside of a forward pass, '
                'as activation checkpointing lets it in the backward pass. '
                'E3VA keeps nothing of its trunk: do not checkpoint it'
            )

    def _tap(
        self, i: int, j: int, site: str, run: Callable, out: Tensor
    ) -> None:
        self._check()
        adapters = self.stages[i][j]
        if self.stacked:
            self._stream = self._stream + out
        if site not in adapters:
            return
        adapter = adapters[site]
        if self.stacked:
            self._stream = run(adapter, self._stream)
        else:
            self._codes.append(run(adapter.code, out))
            self._adapters.append(adapter)

    def _leave(
        self,
        i: int,
        position: int | None,
        module: nn.Module,
        args: tuple,
        out: Tensor,
    ) -> None:
        if self.stacked:
            e = moved(self._stream, -1, self.channels)
        else:
            added = self._added()
            e = out if added is None else out + added
        self._behind = e
        if position is not None:
            self.outputs[position] = e, out

    def _added(self) -> Tensor | None:
        """Return e - l, in the trunk's layout; None where e is l."""
        adapters = self._adapters
        if not adapters:
            return self._offset
        # Side by side along the input of one layer, and biases one by one:
        # cut out of a stack, the gradients would share memory.
        added = F.linear(
            torch.cat(self._codes, -1),
            torch.cat([a.up_t.t() for a in adapters], 1),
            reduce(torch.add, [a.up_bias for a in adapters]),
        )
        added = moved(added, -1, self.channels)
        if self._offset is not None:
            added = added + self._offset
        self._codes, self._adapters = [], []
        self._offset = added
        return added

    def _merge(
        self, i: int, run: Callable, module: nn.Module, args: tuple, out: Any
    ) -> None:
        out = out[0] if isinstance(out, tuple) else out
        merging = module if self.merging is None else self.merging[i]
        self._offset = run(merging, self._behind, args) - out

    def _begin(self, module: nn.Module, args: tuple) -> None:
        """Begin a later stage of the stacked form.

        Between a merging and the first block a trunk may add to both
        streams, as PVT adds its position embeddings.
        """
        self._stream = moved(args[0] + self._offset, self.channels, -1)
