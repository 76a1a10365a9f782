"""Measure what a tuner costs: parameters, saved bytes, seconds, memory.

All methods are measured in one run, taking turns, so that a machine whose
speed drifts is unjust to none of them.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import cv2
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..nn.kernels.kept import (
    Packed,
    Packing,
    keep_less,
    saved_as,
    unpack,
)


@dataclass
class Measurement:
    """What one method costs for one forward and backward pass.

    Attributes:
        method: Its name.
        trainable: Trainable parameters of the backbone.
        saved_bytes: Bytes of the distinct storages that autograd keeps for
            the backward pass, parameters and buffers excluded.
        forward: Seconds of each forward pass.
        backward: Seconds of each backward pass.
        cpu: Seconds that the processors worked on each pass, all threads
            together: what other work on the machine disturbs least.
        peak_bytes: Peak memory that the device allocated in a pass: the
            images, this backbone (the others wait on the CPU), what it
            keeps and its gradients, without an optimizer's state; None on a
            CPU, which does not report it.
    """

    method: str
    trainable: int
    saved_bytes: int
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    cpu: list[float] = field(default_factory=list)

    @property
    def passes(self) -> list[float]:
        """Seconds of each forward plus backward."""
        pairs = zip(self.forward, self.backward, strict=True)
        return [a + b for a, b in pairs]

    @property
    def seconds(self) -> float:
        """Median of forward plus backward."""
        return statistics.median(self.passes)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of forward plus backward."""
        if len(self.passes) < 2:
            return self.seconds, self.seconds
        cuts = statistics.quantiles(self.passes, method='inclusive')
        return cuts[0], cuts[2]

    def values(self) -> dict[str, float]:
        """Return one number for each value; seconds are medians."""
        values = dict(
            trainable=self.trainable,
            saved_bytes=self.saved_bytes,
            forward=statistics.median(self.forward),
            backward=statistics.median(self.backward),
            seconds=self.seconds,
            cpu=statistics.median(self.cpu),
        )
        if self.peak_bytes is not None:
            values['peak_bytes'] = self.peak_bytes
        return values

    def to_json(self) -> dict:
        """Return everything as plain numbers."""
        return dict(
            asdict(self), seconds=self.seconds, quartiles=self.quartiles
        )


def ratios_to_full(
    results: list[Measurement],
) -> dict[str, dict[str, float]]:
    """Return method -> its values, each as a ratio to that of FULL.

    Empty if FULL was not measured.
    """
    full = next((r.values() for r in results if r.method == 'FULL'), None)
    if full is None:
        return {}
    return {
        r.method: {name: v / full[name] for name, v in r.values().items()}
        for r in results
    }


@contextmanager
def saved_for_backward(module: nn.Module) -> Iterator[dict[int, int]]:
    """Record what autograd saves inside the context.

    Args:
        module: What runs. With :func:`..nn.kernels.kept.keep_less`, the
            packed bytes count, also of what is computed outside of it.

    Yields:
        Address of a storage -> its bytes; tensors of ``module`` left out.
    """
    own = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*module.parameters(), *module.buffers())
    }
    found: dict[int, int] = {}
    keep: list[Tensor] = []  # an address must not be used twice
    saved = saved_as(module)
    packing = None if saved == 'exact' else Packing(saved, module)
    # Its own hooks would see the tensors instead of those here.
    keep_less(module, 'exact')

    def pack(tensor: Tensor) -> Tensor | Packed:
        kept = packing.pack(tensor) if packing else tensor
        packed = isinstance(kept, Packed)
        for part in kept.storage.tensors if packed else [kept]:
            storage = part.untyped_storage()
            if storage.data_ptr() not in own:
                found[storage.data_ptr()] = storage.nbytes()
                keep.append(part)
        return kept

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield found
    finally:
        keep_less(module, saved)


def saved_bytes(backbone: nn.Module, images: Tensor) -> int:
    """Return the bytes that one forward pass keeps; see Measurement."""
    with saved_for_backward(backbone) as saved:
        outputs = backbone(images)
    del outputs
    return sum(saved.values())


def saved_in_training(cfg: Config) -> int:
    """Return the bytes that the backbone of a config keeps for a batch."""
    return saved_bytes(*training_pass(cfg))


def training_pass(cfg: Config) -> tuple[nn.Module, Tensor]:
    """Return the backbone of a config, and a batch as it trains on.

    Of the size, that is; the images are looked at.
    """
    loader = cfg.train_dataloader
    folder = Path(loader.dataset.data_root, loader.dataset.data_prefix.img)
    height, width, _ = cv2.imread(str(next(folder.iterdir()))).shape
    init_default_scope(cfg.default_scope)
    backbone = MODELS.build(dict(cfg.model.backbone, init_cfg=None))
    keep_less(backbone, cfg.optim_wrapper.get('saved', 'exact')).train()
    return backbone, torch.zeros(loader.batch_size, 3, height, width)


def measure(
    backbones: dict[str, nn.Module],
    images: Tensor,
    repeats: int = 5,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
    """Measure each backbone, in turns.

    A backbone is on the device of ``images`` for its turns only and is left
    on the CPU, so that no peak contains another's weights. Moving it is not
    timed.

    Args:
        backbones: Name -> backbone, on any device.
        images: (batch, 3, height, width).
        repeats: Counted passes, after one that is not.
        progress: Called with one word on what is done next.
    """
    results = {}
    for name, backbone in backbones.items():
        progress(f'{name}: bytes')
        backbone.train()
        with _moved_to(images.device, backbone):
            saved = saved_bytes(backbone, images)
        results[name] = Measurement(
            method=name,
            trainable=sum(
                p.numel() for p in backbone.parameters() if p.requires_grad
            ),
            saved_bytes=saved,
        )
    for turn in range(repeats + 1):
        for name, backbone in backbones.items():
            progress(f'{name}: pass {turn} of {repeats}')
            with _moved_to(images.device, backbone):
                start = time.process_time()
                forward, backward, peak = _time_once(backbone, images)
                cpu = time.process_time() - start
            if turn:
                results[name].cpu.append(cpu)
                results[name].forward.append(forward)
                results[name].backward.append(backward)
                results[name].peak_bytes = peak
    return list(results.values())


@torch.no_grad()
def measure_inference(
    backbones: dict[str, nn.Module], images: Tensor, repeats: int = 5
) -> dict[str, list[float]]:
    """Return name -> seconds of each forward pass, taken in turns.

    The backbones must be on the device of ``images``.
    """
    for backbone in backbones.values():
        backbone.eval()
    calls = {name: partial(b, images) for name, b in backbones.items()}
    return time_calls(calls, repeats)


def time_calls(
    calls: dict[str, Callable[[], Any]], repeats: int = 5
) -> dict[str, list[float]]:
    """Return name -> seconds of each call, taken in turns.

    The first of each is not counted. On a GPU a call ends when its work does.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = _now()
            call()
            if turn:
                seconds[name].append(_now() - start)
    return seconds


def peak_bytes(call: Callable[[], Any], device: str | torch.device) -> int:
    """Return what a call has allocated at most, beyond what was there.

    Args:
        call: Without arguments; call it once before, for what is kept.
        device: Where it computes; the same on every run on a CPU.
    """
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.autograd.profiler.profile(profile_memory=True) as run:
        call()
    events = run.kineto_results.events()
    events = [event for event in events if event.name() == '[memory]']
    # Freed bytes are negative.
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(accumulate(changes), default=0)


def weight_bytes(*models: nn.Module) -> int:
    """Return the bytes of the distinct parameters and buffers of models."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for model in models
        for tensor in (*model.parameters(), *model.buffers())
    }
    return sum(storages.values())


def _now() -> float:
    """Return the time, in seconds, after what a GPU still had to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def _moved_to(device: torch.device, backbone: nn.Module) -> Iterator[None]:
    backbone.to(device)
    yield
    backbone.cpu()
    # Of trained weights; autocast would keep them until it ends.
    torch.clear_autocast_cache()


def _time_once(
    backbone: nn.Module, images: Tensor
) -> tuple[float, float, int | None]:
    cuda = images.device.type == 'cuda'
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = _now()
    outputs = backbone(images)
    forward = _now() - start
    if isinstance(outputs, dict):
        outputs = [out for task in outputs.values() for out in task]
    trained = [output for output in outputs if output.requires_grad]
    # A head's work, so not timed.
    grads = [torch.ones_like(output) for output in trained]
    start = _now()
    if trained:
        torch.autograd.backward(trained, grads)
    backward = _now() - start
    peak = torch.cuda.max_memory_allocated() if cuda else None
    backbone.zero_grad(set_to_none=True)
    return forward, backward, peak
