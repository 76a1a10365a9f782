"""What saving in fewer bits changes: bytes, gradients, seconds."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.kernels.kept import SAVED, Packing, keep_less, unpack
from ..tuners import tuners_of
from .measuring import saved_for_backward


@dataclass
class Saving:
    """A model's step with one kind of saving.

    Attributes:
        saved: The kind, see :func:`..nn.kernels.kept.keep_less`.
        bytes: Of the distinct storages that are saved for backward,
            parameters and buffers excluded.
        error: Norm of the change of all gradients together, over the norm of
            the exact ones.
        seconds: Of each step: forward and backward.
        left: Why tensors are saved as they are -> their bytes, those that
            are there anyway excluded.
    """

    saved: str
    bytes: int = 0
    error: float = 0.0
    seconds: list[float] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median of ``seconds``."""
        return statistics.median(self.seconds)


def compare(
    model: nn.Module,
    loss: Callable[[], Tensor],
    repeats: int = 3,
    progress: Callable[[str], None] = lambda text: None,
    forward: Callable[[], Any] | None = None,
) -> list[Saving]:
    """Return what each kind of saving costs, in turns.

    Args:
        model: The model, in training mode.
        loss: Calls the model and returns a loss, the same each time.
        repeats: Counted steps, after one that is not.
        progress: Called with one word on what is done next.
        forward: What bytes are counted of, if not of ``loss``.
    """
    forward = forward or loss
    rows, exact = [Saving(saved) for saved in SAVED], None
    for row in rows:
        progress(f'{row.saved}: bytes and gradients')
        keep_less(model, row.saved)
        with saved_for_backward(model) as storages:
            outputs = forward()
        del outputs
        row.bytes = sum(storages.values())
        if row.saved != 'exact':
            row.left = _left(model, forward, row.saved)
        found = _gradients(model, loss())
        exact = found if exact is None else exact
        row.error = float((found - exact).norm() / exact.norm())
    for turn in range(repeats + 1):
        for row in rows:
            progress(f'{row.saved}: step {turn} of {repeats}')
            keep_less(model, row.saved)
            start = time.perf_counter()
            loss().backward()
            if turn:
                row.seconds.append(time.perf_counter() - start)
            model.zero_grad()
    return rows


def to_rows(
    title: str, found: list[Saving], full: int | None = None
) -> list[dict]:
    """Return rows of a record, see :mod:`.records`.

    Args:
        title: Of the model.
        found: Of :func:`compare`, the exact one first.
        full: What full tuning of the model saves exactly, in bytes.
    """
    exact = found[0]
    return [
        dict(
            asdict(one),
            method=f'{title}, {one.saved}',
            model=title,
            of_exact=one.bytes / exact.bytes,
            of_full=full and one.bytes / full,
            slower=one.median / exact.median,
        )
        for one in found
    ]


def _left(
    model: nn.Module, forward: Callable[[], Any], saved: str
) -> dict[str, int]:
    """Return why tensors are not packed -> their bytes, each once."""
    packing, found = Packing(saved, model), {}
    keep_less(model, 'exact')

    def pack(tensor: Tensor) -> Tensor:
        reason = packing.reason(tensor)
        if reason not in (None, 'weights and the batch'):
            storage = tensor.untyped_storage()
            found[id(storage)] = reason, storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        forward()
    keep_less(model, saved)
    total: dict[str, int] = {}
    for reason, storage in found.values():
        total[reason] = total.get(reason, 0) + storage.nbytes()
    return total


def _gradients(model: nn.Module, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    found = [
        p.grad.flatten() for p in model.parameters() if p.grad is not None
    ]
    model.zero_grad()
    return torch.cat(found)


def stir(model: nn.Module) -> None:
    """Move what tuners add from its start, where many gradients are zero."""
    for tuner in tuners_of(model).values():
        for parameter in tuner.parameters():
            noise = torch.randn_like(parameter)
            parameter.data.add_(noise, alpha=0.02)


def backbone_loss(backbone: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Return a loss of a backbone's outputs: their product with noise.

    Args:
        backbone: Returns a sequence of maps.
        images: (batch, 3, height, width).
    """

    def loss() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return sum(
            (torch.randn(out.shape, generator=generator) * out).mean()
            for out in backbone(images)
        )

    return loss
