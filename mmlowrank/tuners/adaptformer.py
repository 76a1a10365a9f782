"""AdaptFormer in a frozen trunk, a baseline of the E3VA paper."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..nn import adaptformer
from ..registry import TUNERS
from .anatomy import transformer_stages
from .base import Tuner
from .serial import SITES, check_sites, refuse_merge


@TUNERS.register_module()
class AdaptFormer(Tuner):
    """Scaled bottlenecks in parallel to the sub-layers of every block.

    A bottleneck reads the residual stream, as the sub-layer's norm does,
    and is added to it without stochastic depth.

    Args:
        mid_channels: Width of the bottleneck.
        sites: ``('attn', 'ffn')`` as the E3VA paper's counts need, or
            ``('ffn',)`` as in the original paper.
        scale: The constant factor of the branch.
        hidden_dropout: Dropout rate of the hidden vector.

    Raises:
        ValueError: If a site is unknown.
    """

    def __init__(
        self,
        mid_channels: int = 64,
        sites: Sequence[str] = SITES,
        scale: float = 0.1,
        hidden_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.sites = check_sites(sites, 'AdaptFormer')
        self.options = dict(
            mid_channels=mid_channels,
            scale=scale,
            hidden_dropout=hidden_dropout,
        )

    def build(self, backbone: nn.Module) -> None:
        self.stages = nn.ModuleList()
        self._besides: list[_Beside] = []
        for stage in transformer_stages(
            backbone, needed_by=type(self).__name__
        ):
            blocks = nn.ModuleList()
            for block in stage.blocks:
                sites = nn.ModuleDict()
                for site in self.sites:
                    branch = adaptformer.ParallelBottleneck(
                        block.width, **self.options
                    )
                    beside = _Beside(branch)
                    block.norms[site].register_forward_pre_hook(beside.read)
                    block.branches[site].register_forward_hook(beside.add)
                    self._besides.append(beside)
                    sites[site] = branch
                blocks.append(sites)
            self.stages.append(blocks)
        # Also when the forward fails.
        backbone.register_forward_hook(self._clear, always_call=True)

    def _clear(self, *_: object) -> None:
        for beside in self._besides:
            beside.stream = None

    def merge(self) -> dict[str, Tensor]:
        """Refuse.

        Raises:
            CannotMerge: Always: a GELU stands inside the branch.
        """
        refuse_merge(self)


class _Beside:
    """The two hooks of one branch: read the stream, add to it."""

    def __init__(self, branch: nn.Module) -> None:
        self.branch = branch
        self.stream: Tensor | None = None

    def read(self, module: nn.Module, args: tuple[Tensor]) -> None:
        self.stream = args[0]

    def add(self, module: nn.Module, args: tuple, out: Tensor) -> Tensor:
        stream, self.stream = self.stream, None
        if stream is None:
            raise RuntimeError(
                'a part of a block runs again without the norm before it, '
                'whose input AdaptFormer reads: checkpoint whole blocks or '
                'stages instead'
            )
        return out + self.branch(stream)
