"""How a worker comes about: its place in the cluster, its versions, its problem."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from agents.ray_errors import words_of
from agents.ray_machines import compared, travelling, versions
from prune_gym.cluster import worker as worker_module
from prune_gym.cluster.shipping import pack, stored
from prune_gym.errors import ClusterError
from prune_gym.problem.problem import PruningProblem

WAIT_S = 600.0  # for a worker's place, as a cluster may have to start machines first; for a problem
SLOW_BYTES_S = 5e6  # of a problem, which takes longer: 25 machines behind one card of 1 Gbit/s
SAY_AFTER_S = 30.0


class NoPlaceError(ClusterError):
    """The cluster had no place for a worker, for long."""


class Hiring:
    """Makes processes on the machines of a cluster, and ends them.

    Args:
        ray: the module, connected.
        needs: options of Ray for each: ``num_cpus``, ``num_gpus``, ``resources``, ...
        report: called with words where it takes long.
    """

    def __init__(
        self, ray: Any, needs: Mapping[str, Any], report: Callable[[str], None] | None = None
    ) -> None:
        self._ray, self._needs, self._report = ray, dict(needs), report
        self._class = _by_value(ray)
        self._lock = threading.Lock()
        self._hired: list[Any] = []
        self._ended = False
        self._told: set[str] = set()

    def hire(self) -> Any:
        """A worker that is ready; waits for its place.

        Raises:
            ClusterError: its machine lacks a module or a GPU, or has another version of this
                package, or Ray refuses what is asked for.
            NoPlaceError: the cluster has no place for it.
            RayError: it died, or did not become ready in time.
        """
        try:
            actor = self._class.options(**self._needs).remote()
        except (TypeError, ValueError) as error:  # such as of a runtime_env
            asked = ", ".join(f"{name}={value!r}" for name, value in self._needs.items())
            raise ClusterError(f"Ray refuses a worker with {asked}: {words_of(error)}") from error
        with self._lock:
            self._hired.append(actor)
            ended = self._ended
        if ended:
            self.dismiss(actor)
        try:
            self._check(self._placed(actor))
            missing = self._opened(actor)
            if missing:
                raise ClusterError(missing)
        except BaseException:  # it is to hold no place
            self.dismiss(actor)
            raise
        return actor

    def _opened(self, actor: Any) -> str:
        """Make it ready; gives a sentence on what is missing on its machine, or nothing."""
        return ""

    def dismiss(self, actor: Any) -> None:
        """End a worker."""
        with self._lock:
            if actor in self._hired:
                self._hired.remove(actor)
        with suppress(Exception):  # it may be dead, or the connection
            self._ray.kill(actor, no_restart=True)

    def dismiss_all(self) -> None:
        """End all workers, and those that are still to come."""
        with self._lock:
            self._ended, hired = True, list(self._hired)
        for actor in hired:
            self.dismiss(actor)

    def _placed(self, actor: Any) -> dict[str, str]:
        """Versions of a worker, once it has its place."""
        try:
            found: dict[str, str] = self._waited(actor.versions.remote(), WAIT_S, self._no_place)
        except self._ray.exceptions.GetTimeoutError:
            raise NoPlaceError(
                f"{self._no_place()}, and none was free for {WAIT_S:.0f} s. Ask for fewer workers "
                "or less for each, add machines, or end what else runs there (ray status)."
            ) from None
        return found

    def _no_place(self) -> str:
        return f"a worker is not up yet; it asks for {self._asked} of the cluster's {self._lent()}"

    def _waited(self, answer: Any, seconds: float, words: Callable[[], str]) -> Any:
        """What a worker answers; says so where it takes long.

        Args:
            answer: that is waited for.
            seconds: at most, in multiples of `SAY_AFTER_S`.
            words: on what it is at.

        Raises:
            GetTimeoutError: it took longer.
            RayError: the worker died.
        """
        for _ in range(math.ceil(seconds / SAY_AFTER_S)):
            try:
                return self._ray.get(answer, timeout=SAY_AFTER_S)
            except self._ray.exceptions.GetTimeoutError:
                self._say(f"{words()}.")
        raise self._ray.exceptions.GetTimeoutError(f"{words()}, after {seconds:.0f} s")

    @property
    def _asked(self) -> str:
        needs = {name.removeprefix("num_"): value for name, value in self._needs.items()}
        named = {**needs, **needs.pop("resources", {})}
        known = {key: value for key, value in named.items() if isinstance(value, int | float)}
        return ", ".join(f"{key} {value:g}" for key, value in known.items() if value) or "nothing"

    def _lent(self) -> str:
        """What the cluster has, in words."""
        with suppress(Exception):  # the connection may be gone
            found = self._ray.cluster_resources()
            names = sorted(name for name in found if not name.startswith(("node:", "object_store")))
            return ", ".join(f"{name} {found[name]:g}" for name in names if name != "memory")
        return "nothing"

    def _say(self, words: str) -> None:
        if self._report is not None and self._is_new(words):
            self._report(words)

    def _is_new(self, words: str) -> bool:
        """Whether they were not said yet; they are now."""
        with self._lock:
            is_new = words not in self._told
            self._told.add(words)
        return is_new

    def _check(self, found: Mapping[str, str]) -> None:
        """Raise where a worker's machine cannot give the same numbers; warn where it may not."""
        fault, notes = compared(versions(worker_module.PACKAGES), found)
        if fault:
            raise ClusterError(fault)
        for words in filter(self._is_new, notes):
            warnings.warn(words, stacklevel=2)


class HiringJudges(Hiring):
    """Makes workers of one problem; what they share is put into the object store once.

    Args:
        ray: the module, connected.
        needs: see `Hiring`.
        report: see `Hiring`.
        problem: which they judge.
        threads: of torch in each.
        device: on which they judge.

    Raises:
        ClusterError: the object store is full.
        SharingError: something in the problem cannot be pickled.
    """

    def __init__(
        self,
        ray: Any,
        needs: Mapping[str, Any],
        report: Callable[[str], None] | None,
        problem: PruningProblem,
        threads: int,
        device: str,
    ) -> None:
        super().__init__(ray, needs, report)
        self._threads, self._device = threads, device
        rest, arrays = pack(problem)
        self._rest = stored(ray, rest, "the problem", len(rest))
        self._arrays = stored(ray, arrays, "the problem", arrays.nbytes)
        self._n_bytes = len(rest) + arrays.nbytes

    def _opened(self, actor: Any) -> str:
        answer = actor.open.remote(self._rest, self._arrays, self._device, self._threads)
        words = f"a worker is up, and still loads the problem, {self._n_bytes / 1e6:,.0f} MB"
        return str(self._waited(answer, WAIT_S + self._n_bytes / SLOW_BYTES_S, lambda: words))


def _by_value(ray: Any) -> Any:
    """The class of workers, as code: a machine without this package is to say so itself."""
    travelling(ray, worker_module.__name__)
    return ray.remote(worker_module.Worker)
