"""Which family a module is of, and what is known where it is of none."""

from collections.abc import Iterator

from torch import nn

from ..nn import LORSLinear
from ..registry import FAMILIES
from .anatomy import Block, Layer, Stage
from .base import PARTS, Family

# A row of equal layers of an encoder or decoder.
_ROW = 'layers'


class AnyModule(Family):
    """A module that no family knows: a decoder, a head, another backbone.

    Its linear layers, convolutions and attentions of PyTorch are known by
    their kind. Their names are paths in a block, with ``-`` for the dots:
    ``self_attn-attn-qkv``. If it has a row of ``layers``, as encoders and
    decoders do, each is a block, behind one with the rest.

    Args:
        backbone: The module.
        reason: Why the family that it looks like cannot have it.
    """

    title = 'any other module'

    def __init__(self, backbone: nn.Module, reason: str = '') -> None:
        super().__init__(backbone)
        row = getattr(backbone, _ROW, None)
        self._row = [*row] if isinstance(row, nn.ModuleList) else []
        known = ', '.join(family.title for family in _registered())
        reason = reason or f'it is none of those known: {known}'
        shared = any(isinstance(m, LORSLinear) for m in backbone.modules())
        if shared:
            reason = 'its layers share their weights (LORS)'
        self.lacks = dict.fromkeys(PARTS, reason)
        if any(block.linears for block in self.blocks) and not shared:
            del self.lacks['linears']
        if self._row:
            del self.lacks['blocks']

    @staticmethod
    def matches(backbone: nn.Module) -> bool:
        return True

    def build_stages(self) -> list[Stage]:
        parts = [self._block(layer, skip=[]) for layer in self._row]
        rest = self._block(self.backbone, skip=self._row)
        if rest.linears:
            parts.insert(0, rest)
        return [Stage(parts)]

    def unused(self) -> set[str]:
        return set()

    def _block(self, module: nn.Module, skip: list[nn.Module]) -> Block:
        layers = dict(self._layers(module, skip))
        first = next(iter(layers.values()), None)
        return Block(
            module=module,
            width=first.shape[1] if first else 0,
            linears=dict(layers=layers) if layers else {},
        )

    def _layers(
        self, module: nn.Module, skip: list[nn.Module]
    ) -> Iterator[tuple[str, Layer]]:
        seen = {id(part) for one in skip for part in one.modules()}
        for path, part in module.named_modules():
            if id(part) in seen:
                continue
            name = path.replace('.', '-')
            if isinstance(part, nn.MultiheadAttention):
                # It reads the weight of its own linear layer.
                seen.add(id(part.out_proj))
                for short, layer in self.pytorch_attention(part).items():
                    yield f'{name}-{short}'.removeprefix('-'), layer
            elif isinstance(part, (nn.Linear, nn.Conv2d)):
                yield name or 'layer', self.layer(part)


def family_of(backbone: nn.Module) -> Family:
    """Return the family of a backbone, with its parts.

    Args:
        backbone: A stock backbone, or another part of a model.
    """
    reason = ''
    for family in _registered():
        try:
            if not family.matches(backbone):
                continue
        except (AttributeError, TypeError, IndexError, KeyError):
            continue
        found = family(backbone)
        try:
            found.stages  # noqa: B018 (they are kept)
        except (AttributeError, TypeError) as error:
            reason = f'{error}, unlike in a {family.title}'
            continue
        return found
    return AnyModule(backbone, reason)


def _registered() -> list[type[Family]]:
    FAMILIES.import_from_location()
    # A user's come before ours, which may match as well.
    return list(reversed(FAMILIES.module_dict.values()))
