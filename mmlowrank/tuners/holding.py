"""Which modules of a trunk stay in evaluation mode while others train."""

from collections.abc import Iterator

from torch import nn

from .roles import keeps_statistics


def modules_to_hold(
    backbone: nn.Module,
    owned: set[int],
    tuner: nn.Module,
    stochastic: bool,
) -> Iterator[nn.Module]:
    """Yield the stock modules that stay in eval mode.

    A part that trains as a whole behaves as in full tuning. Elsewhere
    statistics do not move, and randomness follows ``stochastic``.

    Args:
        backbone: The tuned backbone.
        owned: ``id`` of each tensor that trains.
        tuner: Its tuner, which is no stock module.
        stochastic: Keep dropout and stochastic depth of frozen parts active.
    """
    # By path, in one pass over the parameters: loops that count iterations
    # set the mode before each.
    trained, frozen = set(), set()
    for name, parameter in backbone.named_parameters(remove_duplicate=False):
        (trained if id(parameter) in owned else frozen).update(_parents(name))
    whole = trained - frozen

    def below(path: str, module: nn.Module) -> Iterator[nn.Module]:
        if path in whole:
            return
        if path and (keeps_statistics(module) or not stochastic):
            yield module
        for name, child in module.named_children():
            if child is not tuner:
                yield from below(f'{path}.{name}' if path else name, child)

    return below('', backbone)


def _parents(name: str) -> Iterator[str]:
    """Yield the path of each module that a tensor is in, and the root's."""
    while name:
        name = name.rpartition('.')[0]
        yield name
