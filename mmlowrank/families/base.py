"""What a family of backbones has to say of itself.

A family is found by the parts of a backbone, not by its class, so a subclass
works. What it does not have it says in :attr:`Family.lacks`; a method that
needs it is refused, and no other.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from torch import nn

from .anatomy import (
    MLP,
    Block,
    Branch,
    Grid,
    Layer,
    Norm,
    Output,
    Stage,
    Tap,
    Turns,
)
from .rewriting import rewrite_linears, rewrite_mlp

# What a method may need -> how an error calls it.
PARTS = {
    'blocks': 'blocks in a known order',
    'branches': 'residual branches that end in a module',
    'streams': 'residual branches whose beginning and end are alike',
    'maps': 'tokens whose place in the image is known',
    'linears': 'linear layers or convolutions in its blocks',
    'entries': 'linear layers that a branch begins with',
    'one width': 'blocks of one width',
    'prompts': 'room for tokens besides those of the patches',
    'outputs': 'outputs that can be fed from beside the trunk',
}


class Family(ABC):
    """One backbone, and where its parts are.

    Args:
        backbone: The backbone, as it was built.

    Attributes:
        title: What errors call the family.
        lacks: Part, of ``PARTS`` -> why the family has none.
        rows: Where the blocks are: first parts of parameter names.
        channels: Dimension of the channels in what blocks read and return:
            -1 of tokens, 1 of maps.
        hierarchical: Whether it merges patches between stages.
    """

    title: ClassVar[str]
    lacks: ClassVar[dict[str, str]] = {}
    rows: ClassVar[tuple[str, ...]] = ()
    channels: ClassVar[int] = -1
    hierarchical: ClassVar[bool] = False

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.lacks = self.always_lacks()
        self._paths = {id(m): name for name, m in backbone.named_modules()}

    @classmethod
    def always_lacks(cls) -> dict[str, str]:
        """Return what no backbone of the family has."""
        if not cls.hierarchical:
            return dict(cls.lacks)
        return {**cls.lacks, 'one width': 'its stages differ in width'}

    @staticmethod
    @abstractmethod
    def matches(backbone: nn.Module) -> bool:
        """Whether the backbone is of this family; may raise if it is not."""

    @abstractmethod
    def build_stages(self) -> list[Stage]:
        """Return the stages that an output depends on, in order."""

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages that an output depends on, in order."""
        return self.build_stages()

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in order."""
        return [block for stage in self.stages for block in stage.blocks]

    @property
    def outputs(self) -> list[Output]:
        """What the backbone returns, in order."""
        return []

    @property
    def output_norms(self) -> list[str]:
        """Paths of the norms of the outputs."""
        return [output.norm for output in self.outputs if output.norm]

    @property
    def embedding(self) -> tuple[Layer | None, Norm | None]:
        """The patch projection, and the norm behind it."""
        return None, None

    @property
    def prefix(self) -> int:
        """How many tokens stand before those of the patches."""
        return 0

    def unused(self) -> set[str]:
        """Return the names of the parameters that no output depends on.

        Stock backbones build all their stages, also those behind the last
        of ``out_indices``.
        """
        parts = [block.module for block in self.blocks]
        parts += [s.merging.module for s in self.stages if s.merging]
        reached = {id(p) for part in parts for p in part.parameters()}
        return {
            name
            for name, parameter in self.backbone.named_parameters()
            if name.startswith(self.rows) and id(parameter) not in reached
        }

    def rewrite(self, owned: set[int], attention: str = 'auto') -> None:
        """Let frozen blocks keep less, and be faster; see :mod:`.rewriting`.

        Args:
            owned: ``id`` of each parameter that trains. A block that trains
                as a whole keeps its own code.
            attention: How windows attend, of ``rewriting.ATTENTIONS``.
        """
        self.attention_kind = attention
        for block in self.blocks:
            if not all(id(p) in owned for p in block.module.parameters()):
                self.rewrite_block(block)
        for stage in self.stages:
            if stage.merging is not None:
                rewrite_linears(stage.merging.module)

    def rewrite_block(self, block: Block) -> None:
        """Rewrite what may be rewritten of one block."""
        rewrite_linears(block.module)
        if block.mlp is not None:
            rewrite_mlp(block.mlp, block.width)

    # -- for the families --------------------------------------------------

    def path(self, module: nn.Module) -> str:
        """Return the path of a module in the backbone."""
        return self._paths[id(module)]

    def block_of(
        self,
        module: nn.Module,
        starts: dict[str, nn.Module],
        ends: dict[str, nn.Module],
        linears: dict[str, dict[str, Layer]],
        mlp: MLP | None = None,
        channels: int = -1,
        begins: dict[str, nn.Module] | None = None,
        sized: nn.Module | None = None,
    ) -> Block:
        """Return a block with norms in front of its branches.

        Args:
            module: The block.
            starts: Name of a branch -> its norm.
            ends: Name of a branch -> the module that applies stochastic
                depth to it; one module may do so for several.
            linears: Name of a branch -> name -> layer.
            mlp: What may be rewritten.
            channels: Dimension of the channels in norms and branches.
            begins: Name of a branch -> a module that only it calls. Defaults
                to ``starts``.
            sized: What is called with tokens and the size of their map, if
                the block's tokens are in the order of one.
        """
        begins = begins or starts
        turns = Turns(**begins) if len({*ends.values()}) < len(ends) else None
        branches = {}
        for name, end in ends.items():
            turn = turns and (turns, name)
            branches[name] = Branch(
                stream=Tap(starts[name], 'in', channels),
                end=Tap(end, 'in', channels, turn),
                output=Tap(end, 'out', channels, turn),
            )
        first = next(iter(next(iter(linears.values())).values()))
        norms = {n: self.norm(m, channels) for n, m in starts.items()}
        norms = {n: norm for n, norm in norms.items() if norm is not None}
        grid = sized and Grid(sized)
        return Block(
            module, first.shape[1], branches, linears, norms, mlp, grid=grid
        )

    def layer(self, module: nn.Module, **attributes: object) -> Layer:
        """Return a linear layer, or a part of ``module``."""
        return Layer(self.path(module), module, **attributes)

    def projection(self, attn: nn.Module) -> Layer:
        """Return the query-key-value projection of an attention.

        Args:
            attn: With ``qkv``, called or read; in the latter case with
                ``q_bias`` and ``v_bias``.
        """
        if getattr(attn, 'q_bias', None) is None:
            return self.layer(attn.qkv, parts=3, enters=True)
        return self.layer(
            attn,
            weight='qkv.weight',
            biases=('q_bias', None, 'v_bias'),
            parts=3,
            enters=True,
        )

    def attention(self, attn: nn.Module) -> dict[str, Layer]:
        """Return the two projections of an attention."""
        return dict(qkv=self.projection(attn), proj=self.layer(attn.proj))

    def pytorch_attention(self, attn: nn.Module) -> dict[str, Layer]:
        """Return the projections of an ``nn.MultiheadAttention``."""
        if attn.in_proj_weight is None:  # keys or values of another width
            own = {
                name: self.layer(attn, weight=f'{name}_proj_weight', biases=())
                for name in 'qkv'
            }
        else:
            own = dict(
                qkv=self.layer(
                    attn,
                    weight='in_proj_weight',
                    biases=('in_proj_bias',),
                    parts=3,
                    enters=True,
                )
            )
        return own | dict(
            proj=self.layer(
                attn, weight='out_proj.weight', biases=('out_proj.bias',)
            )
        )

    def ffn(self, ffn: nn.Module) -> dict[str, Layer]:
        """Return the linear layers of an ``FFN`` or a ``SwiGLUFFN``.

        Raises:
            TypeError: If there is none.
        """
        if hasattr(ffn, 'w12'):
            linears = [ffn.w12, ffn.w3]
        else:
            linears = [m for m in ffn.layers.modules() if is_linear(m)]
        if not linears:
            raise TypeError('an MLP without a linear layer')
        return {
            f'fc{i}': self.layer(linear, enters=i == 1)
            for i, linear in enumerate(linears, 1)
        }

    def norm(self, module: nn.Module, channels: int = -1) -> Norm | None:
        """Return a norm, or None if the module has no weight."""
        if getattr(module, 'weight', None) is None:
            return None
        return Norm(self.path(module), module, channels=channels)


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer, or a convolution that is one."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def last_of(out_indices: Sequence[int], count: int) -> int:
    """Return the index of the last stage or layer that is an output."""
    return max((i for i in out_indices if 0 <= i < count), default=0)
