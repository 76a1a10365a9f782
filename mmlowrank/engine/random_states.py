"""States of the generators that everything draws from."""

import random
from typing import Any

import numpy as np
import torch


def get_states() -> dict[str, Any]:
    """Return those of this process, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    states = dict(
        python=random.getstate(),
        numpy=(name, keys.tolist(), *rest),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_states(states: dict[str, Any]) -> None:
    """Go on from what :func:`get_states` returned.

    Args:
        states: On whatever device its tensors have been loaded.
    """
    name, keys, *rest = states['numpy']
    random.setstate(states['python'])
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


def seed(*key: int) -> None:
    """Begin anew from a seed of some parts.

    Args:
        key: Not negative.
    """
    words = np.random.SeedSequence(key).generate_state(3, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)
    torch.manual_seed(int(words[2]))
