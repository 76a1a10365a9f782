"""What a plan puts in for the predictions of a head."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from .fake_values import FakeValues

# Methods of the frameworks' base classes whose arguments are predictions
# from which a step makes boxes: of dense heads and of box coders.
_OF_HEADS = ('predict_by_feat',)
_OF_CODERS = ('decode',)


def invent_predictions(
    model: nn.Module, values: FakeValues, found: Sequence[Tensor] | None
) -> None:
    """Invent what heads predict, where a step makes boxes from it.

    Args:
        model: A model with fake parameters; its heads are changed.
        values: The mode it runs in.
        found: For each image, (n, 4): the first half of its proposals are
            these boxes, moved a little, as those of a trained RPN are. None:
            all are the anchors, moved a little, as at the start.
    """

    def known(function: Callable) -> Callable:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    values.invent(leaf)
            return function(*args, **kwargs)

        return call

    def proposing(function: Callable) -> Callable:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            results = function(*args, **kwargs)
            for boxes, result in zip(found or (), results, strict=False):
                _put(values, result.bboxes, boxes)
            return results

        return call

    for module in model.modules():
        for name in _OF_HEADS:
            if hasattr(module, name):
                function = known(getattr(module, name))
                setattr(module, name, proposing(function))
        coder = getattr(module, 'bbox_coder', None)
        for name in _OF_CODERS:
            if hasattr(coder, name) and name not in vars(coder):
                setattr(coder, name, known(getattr(coder, name)))


def _put(values: FakeValues, proposals: Tensor, boxes: Tensor) -> None:
    value = values.value(proposals)
    if value is None or not len(boxes):
        return
    with _disable_current_modes(), torch.no_grad():
        count = len(value) // 2
        boxes = boxes.to(value).repeat(count // len(boxes) + 1, 1)[:count]
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        noise = torch.rand(boxes.shape, generator=values.generator) - 0.5
        value[:count] = boxes + 0.05 * sides * noise
