"""Devices by name, and what they can do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from prune_gym.errors import InvalidValueError


def resolve_device(device: str) -> torch.device:
    """A torch device by name, checked; ``"auto"`` is the accelerator where there is one.

    Raises:
        ValueError: no such device, or not one that can be used here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        raise InvalidValueError(
            f"device={device!r} cannot be used here ({str(error).splitlines()[0]}); "
            "use 'cpu', 'cuda' or 'auto'."
        ) from error
    return found


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and supported is not None and bool(supported())


class _Tf32:
    """How many judgements rely on torch's switches just now, and how they stood before."""

    lock = threading.Lock()
    users = 0
    before = (False, True)


@contextlib.contextmanager
def tf32(device: torch.device, allowed: bool) -> Iterator[None]:
    """Let an NVIDIA GPU round to TF32 in matrix products and convolutions meanwhile, or not.

    The switches are torch's own, for the whole process; threads that need them alike may overlap.
    Elsewhere nothing happens.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with _Tf32.lock:
        if _Tf32.users == 0:
            _Tf32.before = matmul.allow_tf32, cudnn.allow_tf32
        _Tf32.users += 1
        matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        with _Tf32.lock:
            _Tf32.users -= 1
            if _Tf32.users == 0:
                matmul.allow_tf32, cudnn.allow_tf32 = _Tf32.before
