"""Functions that run as tasks of a Ray cluster, so many at once; dead ones are repeated."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cloudpickle

from agents.errors import ClusterError, MissingLibraryError
from agents.own_code import by_value
from agents.ray_cluster import connected
from agents.stopping import stop_requested

LOOK_EVERY_S = 0.5  # whether a stop was asked for


@dataclass(frozen=True)
class Cluster:
    """Where tasks run.

    Attributes:
        workers: How many at once.
        address: See `agents.ray_cluster.wanted_address`.
        cpus: Processor cores of each.
        gpus: GPUs of each.
        resources: What else each needs, by name.
        retries: How often a task is repeated whose process or machine died.
    """

    workers: int
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    resources: tuple[tuple[str, float], ...] = ()
    retries: int = 3


@dataclass(frozen=True)
class Done:
    """A task that has ended.

    Attributes:
        index: Of the task.
        value: What it gave.
        error: What went wrong, in words; None where nothing did.
    """

    index: int
    value: Any = None
    error: str | None = None


def run_tasks(tasks: Sequence[Callable[[], Any]], cluster: Cluster) -> Iterator[Done]:
    """Run tasks, so many at once; gives each as it ends.

    A task that raises is not repeated; one whose process or machine died is, ``retries`` times at
    most. What runs when the caller stops, or a stop is asked for, is ended.

    Args:
        tasks: Functions without arguments, which can be pickled; code of the user's own goes along.
        cluster: Where.

    Raises:
        ClusterError: If there is no such cluster.
        MissingLibraryError: If Ray is not installed.
    """
    cores = max(1, round(cluster.workers * cluster.cpus))
    with connected(
        cluster.address, n_cpus=cores, error=ClusterError, missing=MissingLibraryError
    ) as ray:
        # a process of its own for each
        remote = ray.remote(max_calls=1)(_call).options(
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            resources=dict(cluster.resources),
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        waiting, tries = list(range(len(tasks)))[::-1], [0] * len(tasks)
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < cluster.workers and not stop_requested():
                    index = waiting.pop()
                    running[remote.remote(_pickled(tasks[index]))] = index
                if not running or stop_requested():
                    return
                ready, _ = ray.wait(list(running), timeout=LOOK_EVERY_S)
                for answer in ready:
                    index = running.pop(answer)
                    done = _ended(ray, answer, index)
                    tries[index] += done.value is _DIED
                    if done.value is _DIED and tries[index] <= cluster.retries:
                        waiting.append(index)
                    else:
                        yield done
        finally:
            for answer in running:
                with suppress(Exception):  # it may have ended meanwhile
                    ray.cancel(answer, force=True)


_DIED = object()


def _pickled(task: Callable[[], Any]) -> bytes:
    with by_value():
        return bytes(cloudpickle.dumps(task))


def _call(task: bytes) -> Any:
    try:
        return pickle.loads(task)()
    except ImportError as error:
        raise ClusterError(
            f"machine {platform.node()} lacks code that this needs: {error}. Install it there, or "
            "send the folder along: ray job submit --working-dir . -- COMMAND."
        ) from error


def _ended(ray: Any, answer: Any, index: int) -> Done:
    try:
        return Done(index, ray.get(answer))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if error.cause is not None else error
        return Done(index, None, f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}")
    except ray.exceptions.RayError as error:
        return Done(index, _DIED, f"its process died: {' '.join(str(error).split())[:300]}")
