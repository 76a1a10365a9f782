"""Focal losses (Lin et al., ICCV 2017) in plain PyTorch.

mmcv's kernels are for GPUs only; on a CPU mmdet has its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import wide


def _of_class(weight: Tensor, target: Tensor) -> Tensor | float:
    """Return the weight of each row's class; background has none of its own.

    mmcv's kernel reads past the end for the background.
    """
    if not weight.numel():
        return 1.0
    return torch.cat([weight, torch.ones_like(weight[:1])])[target]


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write -alpha_t (1 - p_t)^gamma log p_t of each class to ``output``.

    The logarithm is exact; mmcv's ends at 87 where float32 rounds ``1 - p``
    to zero, at logits above 17.

    Args:
        input: (n, classes), logits.
        target: (n,), classes; the number of classes is background.
        weight: (classes,), or empty.
        output: (n, classes), written.
        gamma: Focus on what is hard.
        alpha: Weight of the true class; 1 - alpha is that of the others.
    """
    hit, _, share = _hits(input, target, weight, alpha)
    output.copy_(-share * torch.sigmoid(-hit) ** gamma * F.logsigmoid(hit))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivatives of the forward pass to ``grad_input``."""
    hit, sign, share = _hits(input, target, weight, alpha)
    p, rest = torch.sigmoid(hit), torch.sigmoid(-hit)
    slope = gamma * p * F.logsigmoid(hit) - rest
    grad_input.copy_(sign * share * rest**gamma * slope)


def _hits(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logit of being right, its sign, and alpha_t."""
    logits = wide(input)
    classes = torch.arange(input.shape[1], device=input.device)
    true = (target[:, None] == classes).to(logits.dtype)
    sign = 2 * true - 1
    share = alpha * true + (1 - alpha) * (1 - true)
    share = share * _of_class(wide(weight)[:, None], target)
    return logits * sign, sign, share


def softmax_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write -alpha (1 - p)^gamma log p of the true class to ``output``.

    Args:
        input: (n, classes), probabilities.
        target: (n,), classes; rows with a negative one do not count.
        weight: (classes,), or empty.
        output: (n,), written.
        gamma: Focus on what is hard.
        alpha: Weight.
    """
    p, share = _true_class(input, target, weight, alpha)
    output.copy_(-share * (1 - p) ** gamma * _log(p))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivatives by the logits to ``grad_input``.

    ``buff``, (n,), is not needed here and stays as it is.
    """
    p, share = _true_class(input, target, weight, alpha)
    slope = gamma * (1 - p) ** (gamma - 1) * p * _log(p) - (1 - p) ** gamma
    classes = torch.arange(input.shape[1], device=input.device)
    true = (target[:, None] == classes).to(p.dtype)
    grad_input.copy_((share * slope)[:, None] * (true - wide(input)))


def _true_class(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Return the probability of the true class and what the row counts."""
    p = wide(input).gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    share = alpha * _of_class(wide(weight), target)
    return p, (target >= 0).to(p.dtype) * share


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()
