"""Turn a tuned model into a checkpoint of the stock model.

The result holds tensors under stock names, and needs no mmlowrank.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..tuners import CHILD, tuners_of

# Of the largest output: merging rounds each float32 weight once.
TOLERANCE = 1e-4


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of the stock model that computes the same.

    Args:
        model: A detector, segmentor, classifier or backbone with a tuner.

    Raises:
        CannotMerge: If a tuner has no stock form.
        ValueError: If there is no tuner.
    """
    tuners = tuners_of(model)
    if not tuners:
        raise ValueError(
            f'{type(model).__name__} has no tuner, so it is a stock model '
            'already: there is nothing to merge'
        )
    state_dict = dict(model.state_dict())
    for path, tuner in tuners.items():
        prefix = path.removesuffix(CHILD)
        merged = tuner.merge()
        state_dict = {
            name: merged.get(name.removeprefix(prefix), tensor)
            if name.startswith(prefix)
            else tensor
            for name, tensor in state_dict.items()
            if not name.startswith(f'{path}.')
        }
    return {n: t.detach().cpu().contiguous() for n, t in state_dict.items()}


def save_checked(
    state_dict: dict[str, Tensor],
    meta: dict,
    out: Path,
    tuned: nn.Module,
    stock: nn.Module,
    images: Tensor,
) -> float:
    """Write a merged checkpoint if the stock model computes the same.

    The file is read back, loaded strictly into ``stock`` and run. It gets
    its name only afterwards.

    Args:
        state_dict: Of :func:`merged_state_dict`.
        meta: What else the checkpoint says; values that are no plain Python
            are left out.
        out: Where to write.
        tuned: The model that was merged.
        stock: The stock model, with any weights.
        images: (batch, 3, height, width), for both backbones.

    Returns:
        The largest difference of two outputs of the backbones, as a part of
        the largest entry of the output.

    Raises:
        RuntimeError: If the outputs differ by more than ``TOLERANCE``, or
            the checkpoint does not fit the stock model.
    """
    draft = out.with_name(f'{out.name}.unchecked')
    try:
        torch.save(dict(meta=_plain(meta), state_dict=state_dict), draft)
        again = torch.load(draft, map_location='cpu', weights_only=True)
        stock.load_state_dict(again['state_dict'], strict=True)
        difference = largest_difference(
            backbone_of(tuned), backbone_of(stock), images
        )
        # Not <= is also where an output is nan.
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f'the merged model differs from the tuned one by '
                f'{difference:.1e} of its largest output, more than '
                f'{TOLERANCE:.0e}; {out} was not written. A badly '
                'conditioned weight can cause this: ship the tuned model '
                'with mmlowrank instead'
            )
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return difference


def backbone_of(model: nn.Module) -> nn.Module:
    """Return ``model.backbone``, or the model if it is a backbone."""
    return getattr(model, 'backbone', model)


@torch.no_grad()
def largest_difference(
    one: nn.Module, other: nn.Module, images: Tensor
) -> float:
    """Compare two backbones in evaluation mode.

    Returns:
        max |difference| / max |output|, the worst over the outputs.
    """
    one.eval(), other.eval()
    return max(
        ((a - b).abs().max() / a.abs().max()).item()
        for a, b in zip(one(images), other(images), strict=True)
    )


def _plain(value: Any) -> Any:
    """Keep what ``torch.load(weights_only=True)`` reads."""
    if isinstance(value, dict):
        kept = {k: _plain(v) for k, v in value.items() if isinstance(k, str)}
        return {k: v for k, v in kept.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    if isinstance(value, (str, int, float, bool)):
        return value
    return None
