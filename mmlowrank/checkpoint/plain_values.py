"""What may stand in a file beside tensors."""

from typing import Any


def plain(value: Any) -> Any:
    """Keep what ``torch.load(weights_only=True)`` and JSON know."""
    if isinstance(value, dict):
        kept = {k: plain(v) for k, v in value.items() if isinstance(k, str)}
        return {k: v for k, v in kept.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, range):
        return [*value]
    if isinstance(value, (str, int, float, bool)):
        return value
    return None
