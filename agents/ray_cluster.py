"""A connection to a Ray cluster: one that runs already, or a local one for as long as it is needed.

Ray is the optional extra ``ray``. It is imported when somebody connects, and whatever was there
before, a connection of the program's own included, is left as it was.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from agents.ray_machines import INSTALL

LOCAL = "local"
ANSWER_S = 10.0  # that a cluster has to answer
# what Ray would otherwise ask, report or warn of when a program starts it; its workers would give
# way to everything else on the machine
_SETTINGS = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}


def import_ray(error: type[Exception]) -> Any:
    """The module ``ray``.

    Args:
        error: What to raise where it is not installed.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as missing:
        raise error(f"Ray is not installed ({missing}): {INSTALL}.") from missing
    return ray


def wanted_address(address: str | None) -> str:
    """Which cluster is meant: the one given, that of ``RAY_ADDRESS``, or a local one.

    Args:
        address: ``"auto"``, ``"HOST:PORT"``, ``"local"``, or None.
    """
    return address or os.environ.get("RAY_ADDRESS") or LOCAL


@contextmanager
def connected(
    address: str | None = None,
    *,
    n_cpus: int = 1,
    resources: dict[str, float] | None = None,
    error: type[Exception],
    missing: type[Exception],
) -> Iterator[Any]:
    """Be connected to a cluster; gives the module ``ray``.

    A program that is connected already stays so, and is left connected. A cluster that runs is left
    running. Where there is none, a local one is started and stopped again.

    Args:
        address: See `wanted_address`.
        n_cpus: Processor cores that a local cluster is to lend; there need not be so many.
        resources: Of a local cluster, by name.
        error: What to raise where there is no such cluster, or it cannot be used.
        missing: What to raise where Ray is not installed.
    """
    ray = import_ray(missing)
    if ray.is_initialized():
        yield ray
        return
    wanted = wanted_address(address)
    how: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if wanted == LOCAL:
        how |= {"num_cpus": n_cpus, "include_dashboard": False, "resources": resources or {}}
    with _own_signals():
        try:
            _check_answers(wanted)
            ray.init(address=wanted, **how)
        except Exception as failed:  # Ray has no type of its own for it
            with suppress(Exception):
                ray.shutdown()
            raise error(_not_connected(wanted, failed)) from failed
    try:
        yield ray
    finally:
        with _own_signals():
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise at once where nothing listens at HOST:PORT; Ray would try for minutes."""
    if address in (LOCAL, "auto") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("it is no HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()


def _not_connected(address: str, failed: Exception) -> str:
    said = f"{' '.join(str(failed).split()).rstrip('.')}."
    if "version mismatch" in said.lower():
        return (
            f"the Ray cluster at {address} runs other versions than this process (Python "
            f"{sys.version.split()[0]}): {said} Install the same on all machines."
        )
    if address == LOCAL:
        return f"a local Ray cluster could not be started: {said}"
    return (
        f"no Ray cluster answers at {address!r}: {said} Start one (ray start --head), name another "
        "(HOST:PORT of its head), or leave the address and RAY_ADDRESS out for a local one."
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put handlers of signals back that Ray replaces by its own."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
