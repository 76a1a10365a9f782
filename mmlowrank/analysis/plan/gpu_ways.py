"""What a training step does differently on a GPU, where none is.

A plan runs on fake tensors of the CPU, because PyTorch's autograd engine
asks the driver about tensors of a GPU even where they are fake. What counts
for memory is put right here: which operations autocast keeps in float32,
dropout's one byte an element, and mmcv's compiled operators, which write
into memory of the caller and allocate nothing.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch.library import Library
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

# Operations that torch.autocast('cuda') runs in float32: the list of
# PyTorch's documentation, with what composes into them.
_WIDE = """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p pow reciprocal rsqrt
    sinh tan softplus layer_norm native_layer_norm group_norm frobenius_norm
    nuclear_norm cosine_similarity nll_loss nll_loss2d hinge_embedding_loss
    kl_div l1_loss smooth_l1_loss huber_loss mse_loss cosine_embedding_loss
    poisson_nll_loss margin_ranking_loss binary_cross_entropy_with_logits
    soft_margin_loss triplet_margin_loss multi_margin_loss dist pdist cdist
    renorm logsumexp upsample_bilinear2d upsample_nearest2d
    upsample_bicubic2d softmax log_softmax prod cumprod cumsum sum norm
    linalg_vector_norm
"""
_WRITES = ('_forward', '_backward', '_input', '_parameters')


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Run a step of fake tensors on the CPU as a GPU would run it."""
    with ExitStack() as stack:
        library = Library('aten', 'IMPL', 'AutocastCPU')
        stack.callback(library._destroy)
        for name in _WIDE.split():
            packet = getattr(torch.ops.aten, name)
            for overload in packet.overloads():
                op = getattr(packet, overload)
                if not op._schema.is_mutable and _takes_tensors(op):
                    library.impl(op, _wide(op), allow_override=True)
        ext = sys.modules.get('mmcv._ext')
        for name in [*vars(ext)] if ext else ():
            if name.endswith(_WRITES) and name != 'ms_deform_attn_forward':
                stack.enter_context(patch.object(ext, name, _nothing))
        if ext:
            stack.enter_context(patch.object(ext, 'nms', _nms))
            stack.enter_context(
                patch.object(ext, 'ms_deform_attn_forward', _attended)
            )
        stack.enter_context(_OnGPU())
        yield


@contextmanager
def seeing_a_gpu() -> Iterator[None]:
    """Let a model's forward pass believe that there is a GPU.

    Focal losses ask. Optimizers would go on and ask the driver.
    """
    with patch('torch.cuda.is_available', lambda: True):
        yield


class _OnGPU(TorchFunctionMode):
    """Answers that a tensor is on a GPU; drops out as there."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.is_cuda.__get__:
            return True
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)


def _dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0:
        return input
    out = torch.native_dropout(input, p, True)[0]
    return input.copy_(out) if inplace else out


def _takes_tensors(op: Any) -> bool:
    return any('Tensor' in str(a.type) for a in op._schema.arguments)


def _wide(op: Any) -> Callable:
    keys = DispatchKeySet(DispatchKey.AutocastCPU)

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            args, kwargs = tree_map_only(Tensor, _widened, (args, kwargs))
            return op(*args, **kwargs)

    return call


def _widened(tensor: Tensor) -> Tensor:
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Write into memory of the caller, in the place of a compiled operator."""


def _nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int
) -> Tensor:
    kept = torch.ops.torchvision.nms
    return kept(boxes.float(), scores.float(), iou_threshold)


def _attended(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, locations.shape[1], heads * channels)
