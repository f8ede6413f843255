"""Functions that run as tasks of a Ray cluster, so many at once; dead ones are repeated."""

from __future__ import annotations

import errno
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import cloudpickle

from agents.errors import ClusterError, InvalidTypeError, MissingLibraryError
from agents.own_code import by_value
from agents.ray_cluster import LOCAL, connected, wanted_address
from agents.ray_errors import check_share, full_store, store_is_full, words_of
from agents.ray_machines import PACKAGES, run_here, travelling, versions
from agents.stopping import stop_requested

LOOK_EVERY_S = 0.5  # whether a stop was asked for
END_S = 10.0  # that tasks have to end which are no longer wanted
MACHINES_EVERY_S = 5.0  # whether one is there on which a task fits
PLACE_S = 600.0  # that a cluster has to start a machine on which a task fits


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

    def __post_init__(self) -> None:
        """Raise InvalidValueError for a number of cores or GPUs that Ray does not lend."""
        check_share("cpus", self.cpus)
        check_share("gpus", self.gpus)

    @property
    def needs(self) -> dict[str, float]:
        """What a task needs of a machine, by Ray's names."""
        named = {"CPU": self.cpus, "GPU": self.gpus, **dict(self.resources)}
        return {name: amount for name, amount in named.items() if amount}


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
        ClusterError: If there is no such cluster, or it fails meanwhile.
        MissingLibraryError: If Ray is not installed.
    """
    cores = max(1, round(cluster.workers * cluster.cpus))
    with connected(
        cluster.address, n_cpus=cores, error=ClusterError, missing=MissingLibraryError
    ) as ray:
        try:
            yield ray
        except ray.exceptions.RayError as error:
            raise ClusterError(
                "the cluster failed; what has ended is kept, go on once it answers again: "
                f"{type(error).__name__}: {words_of(error)}"
            ) from error


def run_tasks(
    make: Callable[[int], Callable[[], Any]],
    count: int,
    cluster: Cluster,
    *,
    on_death: Callable[[int], None] = lambda index: None,
    stops: Callable[[], bool] = stop_requested,
) -> Generator[Done, None, None]:
    """Run tasks, so many at once; gives each as it ends.

    A task that raises is not repeated; one whose process or machine died is, ``retries`` times at
    most. One that a full object store, or a full disk here, has no room for is sent once another
    one has ended, with as many trials; where none runs, it is given up. What has ended when a stop
    is asked for is given; what still runs then, or when the caller stops, is ended. Where a machine
    has other versions nothing is begun any more, what is in work comes to its end, and the error
    follows.

    Args:
        make: Makes the task of an index, anew for every try: a function without arguments, which
            can be pickled; code of the user's own goes along. An OSError that it raises is of this
            task alone.
        count: How many tasks there are.
        cluster: Where.
        on_death: Called with the index of a task whose process or machine died.
        stops: Whether a stop is asked for.

    Raises:
        ClusterError: If there is no such cluster, it fails, other versions are on a machine of it,
            or a task fits on none.
        InvalidTypeError: If a task cannot be pickled.
        MissingLibraryError: If Ray is not installed.
    """
    with in_cluster(cluster) as ray:
        travelling(ray)
        remote = _remote(ray, cluster)
        waiting, tries, refusals = list(range(count))[::-1], [0] * count, [0] * count
        place, told, fault = Place(ray, cluster), set[str](), ""
        unsent: tuple[type[Exception], ...] = (*full_store(ray), OSError)
        running, is_full = dict[Any, int](), False
        try:
            while (waiting and not fault) or running:
                stopped = stops()
                begins = not (stopped or fault or is_full)
                while waiting and len(running) < cluster.workers and begins:
                    index = waiting.pop()
                    try:
                        running[remote(make(index))] = index
                    except unsent as error:
                        refusals[index] += 1
                        may_fit = running and refusals[index] <= cluster.retries
                        if may_fit and not _is_of_the_task(error):
                            waiting.append(index)  # there may be room once another one has ended
                            is_full, begins = True, False
                        else:
                            yield Done(index, None, _not_sent(error))
                if not running:
                    break
                place.look()
                many, seconds = (len(running), 0.0) if stopped else (1, LOOK_EVERY_S)
                ready, _ = ray.wait(
                    list(running), num_returns=many, timeout=seconds, fetch_local=not stopped
                )  # at a stop what is ready elsewhere counts, too
                is_full = is_full and not ready
                for answer in ready:
                    index = running.pop(answer)
                    done = _ended(ray, answer, index, told)
                    if done.value is _REFUSED:
                        fault = fault or _told_of(str(done.error), len(running))
                        continue
                    if done.value is _DIED:
                        on_death(index)
                        tries[index] += 1
                        if tries[index] <= cluster.retries:
                            waiting.append(index)
                            continue
                    yield done
                if stopped:
                    break
        finally:
            _end(ray, list(running))
        if fault:
            raise ClusterError(fault)


def _remote(ray: Any, cluster: Cluster) -> Callable[[Callable[[], Any]], Any]:
    """What sends a task off; gives what will be its answer."""
    run = ray.remote(max_calls=1)(run_here).options(  # a process of its own for each
        num_cpus=cluster.cpus,
        num_gpus=cluster.gpus,
        resources=dict(cluster.resources),
        max_retries=0,
        scheduling_strategy="SPREAD",
    )
    here = versions(PACKAGES)
    return lambda task: run.remote(_pickled(task), here)


class Place:
    """Whether a task fits on a machine of the cluster; where it fits on none, that is said.

    Args:
        ray: The module, connected.
        cluster: What tasks need.
        at_once: How many of them have to be there together.
    """

    def __init__(self, ray: Any, cluster: Cluster, at_once: int = 1) -> None:
        self._ray, self._needs, self._at_once = ray, cluster.needs, at_once
        self._is_local = wanted_address(cluster.address) == LOCAL
        self._since: float | None = None  # when none was there
        self._next = 0.0

    def look(self) -> None:
        """Wait for a machine on which a task fits: a local cluster gets none, others may.

        Call it again and again, as machines may be lost; it looks every few seconds.

        Raises:
            ClusterError: If there is none, and none comes.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + MACHINES_EVERY_S
        lent = [node.get("Resources", {}) for node in self._ray.nodes() if node["Alive"]]
        places = sum(self._places(one) for one in lent)
        if places >= self._at_once:
            self._since = None
            return
        asked = ", ".join(f"{amount:g} {name}" for name, amount in self._needs.items())
        words = f"no machine of the cluster has what each worker asks for ({asked})"
        if places:
            words = (
                f"the machines of the cluster have places for {places} of {self._at_once} workers "
                f"that are to be there together ({asked} each)"
            )
        if self._is_local or (self._since is not None and now - self._since > PLACE_S):
            raise ClusterError(
                f"{words}: ask for less, or name a cluster with a machine that has it "
                "(--ray-address)."
            )
        if self._since is None:
            self._since = now
            warnings.warn(
                f"{words}: waiting up to {PLACE_S:g} s for one that is started.", stacklevel=3
            )

    def _places(self, lent: dict[str, float]) -> int:
        """How many tasks fit on a machine that has so much, of those that are needed."""
        shares = [
            math.floor(lent.get(name, 0.0) / amount + 1e-9)
            for name, amount in self._needs.items()
            if amount > 0
        ]
        return min([*shares, self._at_once])


def _is_of_the_task(error: Exception) -> bool:
    """Whether an error of sending is the task's own: not a store, or a disk here, that is full."""
    return isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT)


def _not_sent(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"it could not be sent to the cluster: {error}"
    return str(store_is_full("it could not be sent to the cluster"))


def _told_of(fault: str, n_running: int) -> str:
    """A fault that ends all tasks; said at once where some are still in work."""
    if n_running:
        warnings.warn(
            f"{fault} Nothing else is begun; {n_running} in work come to their end.", stacklevel=3
        )
    return fault


def _end(ray: Any, running: list[Any]) -> None:
    """End tasks, and wait until they have; they may have ended meanwhile."""
    for answer in running:
        with suppress(Exception):
            ray.cancel(answer, force=True)
    if running:
        with suppress(Exception):
            ray.wait(running, num_returns=len(running), timeout=END_S)


_DIED, _REFUSED = object(), object()


def _pickled(task: Callable[[], Any]) -> bytes:
    try:
        with by_value():
            return bytes(cloudpickle.dumps(task))
    except Exception as error:  # of pickling anything
        raise InvalidTypeError(
            "what is to run in the cluster cannot be sent there, as something in it cannot be "
            f"pickled: {words_of(error)}. What belongs to this process, such as files, locks and "
            "connections, has to be made where it runs."
        ) from error


def _ended(ray: Any, answer: Any, index: int, told: set[str]) -> Done:
    try:
        fault, notes, value = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        return Done(index, None, words_of(error))
    except ray.exceptions.RayError as error:
        return Done(index, _DIED, f"its process died: {words_of(error)}")
    if fault:
        return Done(index, _REFUSED, fault)
    for words in set(notes) - told:
        warnings.warn(words, stacklevel=3)
    told.update(notes)
    return Done(index, value)
