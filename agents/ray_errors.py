"""Errors of Ray in words, for all that uses it here, and what Ray does not lend."""

from __future__ import annotations

from typing import Any

from agents.errors import ClusterError, InvalidValueError

_OF_THE_LOG = ("class_name:", "actor_id:", "pid:", "namespace:")  # lines of a death


def full_store(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray raises where its object store, and the disk that it spills to, are full."""
    return ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError


def store_is_full(what: str) -> ClusterError:
    """The error to raise then, with the cure.

    Args:
        what: Did not fit, in words.
    """
    return ClusterError(
        f"{what}: the object store of the cluster is full. Start Ray with more (ray start "
        "--object-store-memory BYTES), free space where it spills to, or send less."
    )


def words_of(error: BaseException) -> str:
    """An error in one line: what a task raised; of others the first lines, which name machines."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(_OF_THE_LOG)]
    cause = getattr(error, "cause", None)
    if type(cause).__name__ == "RayError":  # in place of one that cannot be sent
        return lines[-1][:500] if lines else " ".join(str(cause).split())[:500]
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:500]
    return " ".join(lines[:3])[:500] or type(error).__name__


def check_share(name: str, amount: float) -> float:
    """Cores, or GPUs, of each worker.

    Raises:
        InvalidValueError: If it is neither a share of one nor a whole number.
    """
    if not 0.0 <= amount <= 1024.0 or (amount > 1.0 and amount != int(amount)):
        raise InvalidValueError(
            f"{name} of each worker is {amount!r}; it must be a share of one from 0 to 1, or a "
            "whole number."
        )
    return amount
