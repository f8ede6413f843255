"""Random numbers that somebody else's code draws from global generators."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_LOCK = threading.RLock()  # the generators are of the process, not of a thread


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch's CPU; afterwards they are as before.

    For code that knows no other ones, such as the random transforms of a user's dataset. One thread
    at a time is let in.

    Args:
        seed: 0 or above.

    >>> with seeded(3):
    ...     one = random.random()
    >>> with seeded(3):
    ...     one == random.random()
    True
    """
    with _LOCK:
        python, tensors = random.getstate(), torch.random.get_rng_state()
        arrays = np.random.get_bit_generator()  # type: ignore[attr-defined]
        random.seed(seed)
        np.random.set_bit_generator(type(arrays)(seed))  # type: ignore[attr-defined]
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_bit_generator(arrays)  # type: ignore[attr-defined]
            torch.random.set_rng_state(tensors)
