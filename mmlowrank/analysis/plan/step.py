"""One training step of a config, run without memory."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...tuners import checkpoint_parts
from . import timeline as kinds
from .batch import OBJECTS, image_scale, make_batch, resized
from .fake_values import FakeValues
from .gpu_ways import as_on_a_gpu, seeing_a_gpu
from .heads import invent_predictions
from .timeline import Timeline

AMP = 'AmpOptimWrapper'
# Methods of the frameworks' heads in which memory is a head's.
_LOSSES = ('loss', 'loss_and_target', 'loss_by_feat')
_METHODS = ('forward', *_LOSSES, 'predict', 'predict_by_feat')


@dataclass
class Setting:
    """What a plan assumes.

    Attributes:
        batch: Images a GPU; of the config where None.
        scale: Width and height of an image; the largest of the config where
            None.
        objects: In an image of a detector.
        found: Whether the first half of the proposals are objects, so that
            samplers find all the positives they want, as in a trained
            detector; else proposals are those of a start.
        device: ``'cuda'`` or ``'cpu'``: whose way of computing is planned.
        change: Called with the built model, e.g. to form weights.
    """

    batch: int | None = None
    scale: tuple[int, int] | None = None
    objects: int = OBJECTS
    found: bool = True
    device: str = 'cuda'
    change: Callable[[nn.Module], None] | None = None


@dataclass
class Step:
    """What one step of training needs, in bytes, after the first step.

    Attributes:
        batch: Images.
        scale: Width and height of an image.
        peak: The most that is there at a time.
        phase: When: ``'forward'``, ``'backward'`` or ``'optimizer step'``.
        shares: What is there then, for what; its sum is ``peak``.
        parts: Of what is kept for backward then: part of the model -> bytes.
        kept: The same at the end of the forward pass, where most is kept.
        trainable: Bytes of the trained parameters.
        boxes: Whether the batch has boxes.
    """

    batch: int
    scale: tuple[int, int]
    peak: int
    phase: str
    shares: dict[str, int] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    trainable: int = 0
    boxes: bool = False

    def to_json(self) -> dict:
        """Return everything as plain values."""
        return asdict(self)


def uses_amp(cfg: Config) -> bool:
    """Return whether a config trains with automatic mixed precision."""
    return str(cfg.optim_wrapper.get('type')).split('.')[-1] == AMP


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config as it trains, without its weights' files.

    With ``activation_checkpointing``, as FreezeAuditHook has it.
    """
    model_cfg = copy.deepcopy(cfg.model)
    _drop_files(model_cfg)
    scope = cfg.get('default_scope', 'mmengine')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(model_cfg)
    paths = cfg.get('activation_checkpointing') or []
    checkpoint_parts(model, [paths] if isinstance(paths, str) else paths)
    return model.train()


def build_wrapper(cfg: Config, model: nn.Module, device: str) -> Any:
    """Build the optimizer of a config around a model, without loss scaling.

    Args:
        cfg: As the model's.
        model: The model.
        device: As in :class:`Setting`. On a GPU PyTorch's optimizers update
            all tensors in one operation.
    """
    options = copy.deepcopy(cfg.optim_wrapper)
    options['type'] = 'OptimWrapper'
    for key in ('dtype', 'loss_scale', 'use_fsdp'):
        options.pop(key, None)
    optimizer = options['optimizer']
    ours = hasattr(torch.optim, str(optimizer['type']))
    if device == 'cuda' and ours and not {'foreach', 'fused'} & {*optimizer}:
        optimizer['foreach'] = True
    scope = cfg.get('default_scope', 'mmengine')
    with DefaultScope.overwrite_default_scope(scope):
        wrapper = build_optim_wrapper(model, options)
    # An accumulated gradient is one step of a number like any other.
    wrapper.initialize_count_status(model, 0, 10**6)
    return wrapper


@contextmanager
def forward_context(
    cfg: Config, device: str, planned: bool = True
) -> Iterator[None]:
    """Enter what the forward pass of a config runs in.

    Args:
        cfg: As the model's.
        device: As in :class:`Setting`.
        planned: Whether tensors are fake: these are all of the CPU.
    """
    with ExitStack() as stack:
        if device == 'cuda' and planned:
            stack.enter_context(seeing_a_gpu())
        if uses_amp(cfg):
            named = cfg.optim_wrapper.get('dtype')
            dtype = torch.float16 if device == 'cuda' else torch.bfloat16
            dtype = getattr(torch, named) if isinstance(named, str) else dtype
            where = 'cpu' if planned else device
            stack.enter_context(torch.autocast(where, dtype=dtype))
        yield


def one_step(
    model: nn.Module,
    wrapper: Any,
    batch: dict,
    context: Any,
    reached: Callable[[str, Any], None] = lambda phase, data: None,
) -> None:
    """Train on a batch, as ``model.train_step`` does.

    Args:
        model: The model.
        wrapper: Its optimizer.
        batch: What a data loader returns.
        context: That of the forward pass.
        reached: Called with the name of a phase that begins, and the batch
            as the model takes it.
    """
    data = model.data_preprocessor(batch, True)
    reached('forward', data)
    with context:
        losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    reached('backward', data)
    handle = wrapper.optimizer.register_step_pre_hook(
        lambda *_: reached('optimizer step', data)
    )
    wrapper.update_params(loss)
    handle.remove()


def plan_step(cfg: Config, setting: Setting) -> Step:
    """Run a step of a config on tensors that have no memory.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.
        setting: What is assumed.
    """
    cfg = resized(cfg, setting.scale)
    images = setting.batch or cfg.train_dataloader.batch_size
    scale = setting.scale or image_scale(cfg)
    batch = make_batch(cfg, images, scale, setting.objects)
    timeline = Timeline()
    values = FakeValues(timeline)
    gpu = setting.device == 'cuda'
    begun: dict[str, int] = {}

    def reached(phase: str, data: Any) -> None:
        begun[phase] = timeline.now
        if phase == 'forward':
            timeline.mark(kinds.BATCH, _tensors([data, batch]))
        elif phase == 'optimizer step':
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            timeline.mark(kinds.GRADIENTS, grads)

    with ExitStack() as stack:
        stack.enter_context(values.running())
        model = build_model(cfg)
        if setting.change:
            setting.change(model)
        if gpu:
            stack.enter_context(as_on_a_gpu())
        # Unknown, or a tenth of a model would be computed for nothing.
        values.forget(model.parameters())
        boxes = [
            getattr(found, 'tensor', found)
            for found in _boxes(batch)
            if setting.found
        ]
        invent_predictions(model, values, boxes)
        wrapper = build_wrapper(cfg, model, setting.device)
        timeline.mark(kinds.BUFFERS, model.buffers())
        timeline.mark(kinds.PARAMETERS, model.parameters())
        _fill_state(model, wrapper.optimizer, timeline)
        _watch_parts(model, timeline)
        start = timeline.now
        context = forward_context(cfg, setting.device)
        one_step(model, wrapper, batch, context, reached)
        end = timeline.now
        boxes = any(True for _ in _boxes(batch))
    return _read(timeline, model, images, scale, begun, start, end, boxes)


def _read(
    timeline: Timeline,
    model: nn.Module,
    images: int,
    scale: tuple[int, int],
    begun: dict[str, int],
    start: int,
    end: int,
    boxes: bool,
) -> Step:
    moment, peak = timeline.peak(start, end)
    turn = begun['backward']
    shares: Counter = Counter()
    parts: Counter = Counter()
    for block in timeline.at(moment):
        kind = block.kind or kinds.TEMPORARY
        if not block.kind and _is_kept(block, start, turn):
            kind = kinds.KEPT
            parts[block.module or 'losses'] += block.bytes
        shares[kind] += block.bytes
    kept: Counter = Counter()
    for block in timeline.at(turn):
        if not block.kind and _is_kept(block, start, turn):
            kept[block.module or 'losses'] += block.bytes
    trained = [p for p in model.parameters() if p.requires_grad]
    return Step(
        images,
        tuple(scale),
        peak,
        max((at, phase) for phase, at in begun.items() if at <= moment)[1]
        if moment >= begun['forward']
        else 'forward',
        dict(shares),
        dict(parts),
        dict(kept),
        sum(p.numel() * p.element_size() for p in trained),
        boxes,
    )


def _is_kept(block: kinds.Block, start: int, turn: int) -> bool:
    """Return whether a block of the forward pass waits for the backward."""
    ends = block.died is None or block.died > turn
    return start <= block.born <= turn and ends


def _fill_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, timeline: Timeline
) -> None:
    """Make the state that an optimizer has after its first step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    state = tree_leaves([*optimizer.state.values()])
    timeline.mark(kinds.STATE, [x for x in state if isinstance(x, Tensor)])


def _watch_parts(model: nn.Module, timeline: Timeline) -> None:
    """Tell the timeline which part of the model runs."""
    parts = dict(model.named_children())
    parts.pop('data_preprocessor', None)
    heads = {
        name: module
        for name, module in model.named_modules()
        if name and any(hasattr(module, method) for method in _LOSSES)
    }
    for name, module in (parts | heads).items():
        path = '.'.join(p for p in name.split('.') if not p.isdecimal())
        for method in _METHODS:
            if hasattr(module, method):
                _name_within(module, method, path, timeline)


def _name_within(
    module: nn.Module, method: str, path: str, timeline: Timeline
) -> None:
    function = getattr(module, method)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        before, timeline.module = timeline.module, path
        try:
            return function(*args, **kwargs)
        finally:
            timeline.module = before

    setattr(module, method, call)


def _boxes(batch: dict) -> Iterator[Any]:
    for sample in batch['data_samples']:
        if 'gt_instances' in sample:
            yield sample.gt_instances.bboxes


def _tensors(data: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(data):
        if isinstance(leaf, Tensor):
            yield leaf


def _drop_files(cfg: Any) -> None:
    if isinstance(cfg, dict):
        for key in ('init_cfg', 'pretrained'):
            if cfg.get(key):
                cfg[key] = None
        for value in cfg.values():
            _drop_files(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            _drop_files(value)
