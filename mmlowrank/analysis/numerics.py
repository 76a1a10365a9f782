"""How exact the hand-written passes are on a device, in each type.

Errors are relative to float64 on the same device, and stand beside those of
the plain formulation in the same type: what is no worse is right.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..nn.kernels import attention, functional, updates
from ..registry import TUNERS
from .contenders import ARCHS
from .decoders import LORS, DecoderAlone, cat_and_sum

TYPES = {
    'fp32': torch.float32,
    'fp16': torch.float16,
    'bf16': torch.bfloat16,
}
# A Swin-T with fewer blocks.
_SWIN = dict(
    ARCHS['tiny'],
    type='SwinTransformer',
    depths=[2, 1, 1, 1],
    drop_path_rate=0.0,
)


def kernel_errors(device: str) -> Iterator[dict]:
    """Yield a row for each hand-written pass and type."""
    for name, (function, plain, make) in _kernels().items():
        torch.manual_seed(0)
        inputs, rest = make()
        exact = [t.to(device).double() for t in inputs]
        reference = _with_gradients(plain, exact, _double(rest, device))
        for kind, dtype in TYPES.items():
            given = [t.to(device, dtype) for t in inputs]
            own = [r.to(device, dtype) if _is(r) else r for r in rest]
            yield _row(
                name,
                kind,
                reference,
                lambda f, given=given, own=own: _with_gradients(f, given, own),
                function,
                plain,
            )


def tuner_errors(
    device: str,
    size: int = 224,
    names: Sequence[str] | None = None,
    kinds: Sequence[str] = tuple(TYPES),
) -> Iterator[dict]:
    """Yield a row for each tuner that a Swin can have, and each type.

    A lean trunk against a stock one; fp16 and bf16 are those of autocast.

    Args:
        device: Where to compute.
        size: Of the image.
        names: Of the tuners; all by default.
        kinds: Of ``TYPES``.
    """
    TUNERS.import_from_location()
    for name in names or sorted(TUNERS.module_dict):
        try:
            stock, *lean = (
                _tuned(name, **how).to(device)
                for how in (
                    dict(memory='stock'),
                    dict(attention='products'),
                    dict(attention='sdpa'),
                )
            )
        except (KeyError, TypeError, ValueError):
            continue  # not of a Swin, or not with its defaults
        for other in lean:
            other.load_state_dict(stock.state_dict())
        images = torch.randn(1, 3, size, size, device=device)
        wide = copy.deepcopy(stock).double()
        reference = _outputs_and_gradients(wide, images.double())
        if not reference[0].requires_grad:
            continue  # trains nothing
        for kind in kinds:
            dtype = TYPES[kind]
            for way, ours in zip(('products', 'sdpa'), lean, strict=True):
                yield _row(
                    f'{name}, {way}',
                    kind,
                    reference,
                    lambda m, d=dtype, x=images: _outputs_and_gradients(
                        m, x, d
                    ),
                    ours,
                    stock,
                )


def lors_errors(
    device: str, size: int = 512, kinds: Sequence[str] = tuple(TYPES)
) -> Iterator[dict]:
    """Yield a row for the decoder of LORS-AdaMixer in each type.

    Args:
        device: Where to compute.
        size: Of the image.
        kinds: Of ``TYPES``.
    """
    torch.manual_seed(0)
    ours = DecoderAlone(1, (size, size), **LORS)
    for parameter in ours.decoder.mixing.parameters():
        nn.init.normal_(parameter, std=0.02)
    ours = ours.to(device)
    plain = cat_and_sum(copy.deepcopy(ours))
    content = torch.randn(1, 20, 256, device=device)
    wide = copy.deepcopy(plain).double()
    reference = _outputs_and_gradients(wide, content.double())
    for kind in kinds:
        yield _row(
            'LORS',
            kind,
            reference,
            lambda m, d=TYPES[kind]: _outputs_and_gradients(m, content, d),
            ours,
            plain,
        )


def _kernels() -> dict[str, tuple[Callable, Callable, Callable]]:
    """Return name -> pass, its plain twin, and what makes the inputs."""

    def draw(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [torch.randn(*shape) / shape[-1] ** 0.5 for shape in shapes]

    def windows() -> tuple[list[Tensor], tuple]:
        mask = torch.zeros(4, 49, 49)
        mask[1, :20, 20:] = mask[1, 20:, :20] = -100
        return draw((8, 49, 288), (3, 49, 49)), (mask, 3, 32**-0.5)

    def mlp(rest: tuple = ()) -> tuple[list[Tensor], tuple]:
        d, m = 96, 384
        return draw((300, d), (m, d), (m,), (d, m), (d,)), rest

    def norm_mlp() -> tuple[list[Tensor], tuple]:
        (x, *weights), _ = mlp()
        return [x, torch.ones(96), torch.zeros(96), *weights], (1e-5,)

    def code() -> tuple[list[Tensor], tuple]:
        return draw((300, 96), (96, 16), (16, 48), (48,), (48, 16)), ()

    def update() -> tuple[list[Tensor], tuple]:
        shapes = (300, 96), (300, 288), (2, 8, 96), (2, 96, 8)
        return draw(*shapes), (0.5, (0, 2))

    plain = attention.window_attention_plain
    return {
        'window_attention, products': (
            partial(attention.window_attention, fused=False),
            plain,
            windows,
        ),
        'window_attention, sdpa': (
            partial(attention.window_attention, fused=True),
            plain,
            windows,
        ),
        'norm_mlp': (functional.norm_mlp, functional.norm_mlp_plain, norm_mlp),
        'bottleneck': (
            functional.bottleneck,
            functional.bottleneck_plain,
            mlp,
        ),
        'low_rank_code': (
            functional.low_rank_code,
            functional.low_rank_code_plain,
            code,
        ),
        'low_rank_update': (
            updates.low_rank_update,
            updates.low_rank_update_plain,
            update,
        ),
    }


def _tuned(name: str, **how: str) -> nn.Module:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(
            dict(
                type='mmlowrank.TunedBackbone',
                backbone=_SWIN,
                tuner=dict(type=name),
                **how,
            )
        )
    with torch.no_grad():
        for parameter in model.tuner.parameters():
            # Off the zeros at which many start.
            parameter += 0.02 * torch.randn_like(parameter)
    model.train()  # returns nothing, in a Swin
    return model


def _with_gradients(
    function: Callable, inputs: list[Tensor], rest: tuple | list
) -> list[Tensor]:
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    out = function(*inputs, *rest)
    generator = torch.Generator().manual_seed(1)
    seed = torch.randn(out.shape, generator=generator)
    grads = torch.autograd.grad(out, inputs, seed.to(out))
    return [out, *grads]


def _outputs_and_gradients(
    model: nn.Module, x: Tensor, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    with _autocast(x, dtype):
        outs = [out for out in model(x) if out.requires_grad]
    if not outs:
        return [x]
    sum(out.double().square().mean() for out in outs).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return [*outs, torch.cat([grad.double().flatten() for grad in grads])]


def _autocast(x: Tensor, dtype: torch.dtype) -> AbstractContextManager:
    if dtype in (torch.float32, torch.float64):
        return nullcontext()
    return torch.autocast(x.device.type, dtype)


def _row(
    name: str,
    kind: str,
    reference: list[Tensor],
    run: Callable[[Callable], list[Tensor]],
    ours: Callable,
    plain: Callable,
) -> dict:
    error, theirs = (_error(run(f), reference) for f in (ours, plain))
    # Two orders of sums differ by the rounding of a type, too.
    floor = 8 * torch.finfo(TYPES[kind]).eps
    return dict(
        method=name,
        type=kind,
        error=error,
        error_of_plain=theirs,
        right=error <= 2 * theirs + floor,
    )


def _error(tensors: list[Tensor], reference: list[Tensor]) -> float:
    """Return the largest relative error, in the norm of each tensor."""
    with torch.no_grad():
        return max(
            float((one.double() - other).norm() / (other.norm() + 1e-30))
            for one, other in zip(tensors, reference, strict=True)
        )


def _double(rest: tuple, device: str) -> list:
    return [r.to(device).double() if _is(r) else r for r in rest]


def _is(value: object) -> bool:
    return isinstance(value, Tensor)
