"""Load a checkpoint into a model, every tensor of it."""

from typing import Any

from mmengine.runner import load_checkpoint
from torch import nn

from .adapter_checks import forced


def load_exactly(
    model: nn.Module, checkpoint: str, force: bool = False
) -> dict[str, Any]:
    """Load a checkpoint of which names and shapes are the model's.

    mmengine's own loading before a test only warns where they differ, and
    then tests a model that is partly random.

    Args:
        model: The model, not wrapped.
        checkpoint: A checkpoint, or an adapter file, whose base the tuned
            backbone loads.
        force: Of an adapter file: only warn where base or arguments differ.

    Returns:
        What was read.

    Raises:
        AdapterError: If an adapter file is damaged or of another base.
        RuntimeError: If the checkpoint is of another model.
    """
    try:
        with forced(force):
            return load_checkpoint(model, checkpoint, 'cpu', strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        shown = ' '.join(filter(None, lines))[:400]
        raise RuntimeError(
            f'{checkpoint} is not a checkpoint of this config: {shown} ... '
            'Use the config it was trained with'
        ) from None
