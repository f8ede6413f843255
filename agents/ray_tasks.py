"""Functions that run as tasks of a Ray cluster, so many at once; dead ones are repeated."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import cloudpickle

from agents.errors import ClusterError, MissingLibraryError
from agents.own_code import by_value
from agents.ray_cluster import connected
from agents.ray_machines import PACKAGES, run_here, travelling, versions
from agents.stopping import stop_requested

LOOK_EVERY_S = 0.5  # whether a stop was asked for
END_S = 10.0  # that tasks have to end which are no longer wanted


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


@contextmanager
def in_cluster(cluster: Cluster) -> Iterator[Any]:
    """Be connected to it; gives the module ``ray``.

    Raises:
        ClusterError: If there is no such cluster.
        MissingLibraryError: If Ray is not installed.
    """
    cores = max(1, round(cluster.workers * cluster.cpus))
    with connected(
        cluster.address, n_cpus=cores, error=ClusterError, missing=MissingLibraryError
    ) as ray:
        yield ray


def run_tasks(
    tasks: Sequence[Callable[[], Any]],
    cluster: Cluster,
    on_death: Callable[[int], None] = lambda index: None,
) -> Generator[Done, None, None]:
    """Run tasks, so many at once; gives each as it ends.

    A task that raises is not repeated; one whose process or machine died is, ``retries`` times at
    most. What has ended when a stop is asked for is given; what still runs then, or when the caller
    stops, is ended.

    Args:
        tasks: Functions without arguments, which can be pickled; code of the user's own goes along.
            They are pickled anew for every try.
        cluster: Where.
        on_death: Called with the index of a task whose process or machine died.

    Raises:
        ClusterError: If there is no such cluster, or other versions are on a machine of it.
        MissingLibraryError: If Ray is not installed.
    """
    with in_cluster(cluster) as ray:
        travelling(ray)
        # a process of its own for each
        remote = ray.remote(max_calls=1)(run_here).options(
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            resources=dict(cluster.resources),
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        waiting, tries = list(range(len(tasks)))[::-1], [0] * len(tasks)
        here, told = versions(PACKAGES), set[str]()
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                stops = stop_requested()
                while waiting and len(running) < cluster.workers and not stops:
                    index = waiting.pop()
                    running[remote.remote(_pickled(tasks[index]), here)] = index
                if not running:
                    return
                many, seconds = (len(running), 0.0) if stops else (1, LOOK_EVERY_S)
                ready, _ = ray.wait(
                    list(running), num_returns=many, timeout=seconds, fetch_local=not stops
                )  # at a stop what is ready elsewhere counts, too
                for answer in ready:
                    index = running.pop(answer)
                    done = _ended(ray, answer, index, told)
                    if done.value is _DIED:
                        on_death(index)
                        tries[index] += 1
                        if tries[index] <= cluster.retries:
                            waiting.append(index)
                            continue
                    yield done
                if stops:
                    return
        finally:
            _end(ray, list(running))


def _end(ray: Any, running: list[Any]) -> None:
    """End tasks, and wait until they have; they may have ended meanwhile."""
    for answer in running:
        with suppress(Exception):
            ray.cancel(answer, force=True)
    if running:
        with suppress(Exception):
            ray.wait(running, num_returns=len(running), timeout=END_S)


_DIED = object()


def _pickled(task: Callable[[], Any]) -> bytes:
    with by_value():
        return bytes(cloudpickle.dumps(task))


def _ended(ray: Any, answer: Any, index: int, told: set[str]) -> Done:
    try:
        fault, notes, value = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if error.cause is not None else error
        return Done(index, None, f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}")
    except ray.exceptions.RayError as error:
        return Done(index, _DIED, f"its process died: {' '.join(str(error).split())[:300]}")
    if fault:
        raise ClusterError(fault)
    for words in set(notes) - told:
        warnings.warn(words, stacklevel=3)
    told.update(notes)
    return Done(index, value)
