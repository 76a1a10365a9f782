"""Serial adapters: one behind each residual branch of each block.

Placement of the LoRand paper (figure 2) and of the Houlsby adapter:

    x = x + DropPath(A1(MSA(LN1 x)));   x = x + DropPath(A2(MLP(LN2 x)))

The adapter comes before stochastic depth, as in the authors' public code.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor, nn

from .anatomy import transformer_stages
from .base import CannotMerge, Tuner

SITES = ('attn', 'ffn')


def check_sites(sites: Sequence[str], method: str) -> tuple[str, ...]:
    """Return the branches of a block that a method adapts.

    Raises:
        ValueError: If there is none, or one that no block has.
    """
    if isinstance(sites, str) or not sites or not {*sites} <= {*SITES}:
        raise ValueError(
            f"{method} sites must be ('attn',), ('ffn',) or both, got "
            f'{sites!r}'
        )
    return tuple(sites)


class SerialTuner(Tuner):
    """Base of the tuners that put an adapter behind attention and MLP.

    The adapters are ``tuner.stages[stage][block]['attn' or 'ffn']``.

    Attributes:
        sites: The branches of a block that have one.
    """

    sites: tuple[str, ...] = SITES

    @abstractmethod
    def make_adapter(self, width: int) -> nn.Module:
        """Return the adapter for tokens of ``width`` channels."""

    def build(self, backbone: nn.Module) -> None:
        self.stages = nn.ModuleList()
        for stage in transformer_stages(
            backbone, needed_by=type(self).__name__
        ):
            blocks = nn.ModuleList()
            for block in stage.blocks:
                sites = nn.ModuleDict()
                for site in self.sites:
                    drop_path = block.branches[site]
                    sites[site] = self.make_adapter(block.width)
                    drop_path.register_forward_pre_hook(Before(sites[site]))
                blocks.append(sites)
            self.stages.append(blocks)

    def merge(self) -> dict[str, Tensor]:
        """Refuse.

        Raises:
            CannotMerge: Always: a GELU stands inside the adapter.
        """
        refuse_merge(self)


def refuse_merge(tuner: Tuner) -> NoReturn:
    """Say why a bottleneck with an activation inside cannot be merged."""
    raise CannotMerge(
        f'{type(tuner).__name__} cannot be merged into a stock checkpoint, '
        'because a GELU stands between its two projections: no single '
        'weight matrix computes the same. Ship the tuned model with '
        'mmlowrank'
    )


class Before:
    """Forward pre-hook that passes a module's input through another.

    An object and not a closure, so that a deep copy of the model points to
    the copied adapter.
    """

    def __init__(self, adapter: nn.Module) -> None:
        self.adapter = adapter

    def __call__(
        self, module: nn.Module, args: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        return (self.adapter(args[0]), *args[1:])
