"""Running out of memory: one error for what torch raises in several ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prune_gym.errors import OutOfMemoryError

_SIGNS = (
    *("not enough memory", "can't allocate memory", "out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),  # a GPU's libraries
)


@contextmanager
def memory_bound(cure: str) -> Iterator[None]:
    """Turn what torch and numpy raise when memory runs out into an error that names the cure.

    Args:
        cure: what the user can do, e.g. ``"lower --batch-size (now 128)"``.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemoryError(f"out of memory; {cure}.") from error
    except RuntimeError as error:
        if any(sign in str(error) for sign in _SIGNS):
            raise OutOfMemoryError(f"out of memory; {cure}.") from error
        raise
