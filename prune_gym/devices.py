"""Devices by name, and what they can do."""

from __future__ import annotations

import torch


def resolve_device(device: str) -> torch.device:
    """A torch device by name, checked; ``"auto"`` is the accelerator where there is one.

    Raises:
        ValueError: no such device, or not one that can be used here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
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


def set_tf32(device: torch.device, allowed: bool) -> None:
    """Let an NVIDIA GPU round to TF32 in matrix products and convolutions, or not.

    The switches are torch's own, for the whole process; on the CPU there are none.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
