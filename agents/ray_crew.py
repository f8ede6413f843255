"""A worker of a `RayVecEnv`, as the agent's process knows it: hired, asked, replaced, ended."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cloudpickle
import gymnasium as gym

from agents.errors import ClusterError, InvalidTypeError
from agents.own_code import by_value
from agents.ray_env_worker import EnvWorker, Past
from agents.ray_errors import full_store, store_is_full, words_of
from agents.ray_machines import PACKAGES, compared, travelling, versions

WAIT_S = 600.0  # for a worker's place: a cluster may have to start machines first
CLOSE_S = 5.0  # that environments have to close, those of all workers together
SLOWER = 3.0  # steps may be where they are repeated
_BY_VALUE = frozenset({"set", "method", "is_wrapped", "restore"})  # may hold code of the user's
MakeEnv = Callable[[], gym.Env[Any, Any]]


@dataclass(frozen=True)
class Needs:
    """Of workers: cores and GPUs of each, how many, and the arguments of `RayVecEnv`."""

    cpus: float
    gpus: float
    count: int
    retries: int
    timeout_s: float


class Crew:
    """One worker and its environments, as this process knows them; `hire` it first.

    Args:
        ray: The module, connected.
        env_fns: Make its environments.
        members: Numbers of these in the vector.
        needs: See `Needs`.

    Raises:
        ClusterError: If the functions do not fit into the object store.
        InvalidTypeError: If they cannot be pickled.
    """

    def __init__(self, ray: Any, env_fns: list[MakeEnv], members: list[int], needs: Needs) -> None:
        self._ray, self.members, self._needs = ray, members, needs
        with by_value():
            pickled = self._handed("env_fns", cloudpickle.dumps, env_fns)
        self._fns = self._handed(f"env_fns, {len(pickled) / 1e6:,.0f} MB", ray.put, pickled)
        travelling(ray, EnvWorker.__module__)
        self._class = ray.remote(EnvWorker).options(
            num_cpus=needs.cpus, num_gpus=needs.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._actor: Any = None
        self._answer: Any = None  # to what was sent last; None = that could not be sent
        self.past = {index: Past() for index in members}
        self._sent_at = 0.0  # what was sent last
        self._told: set[str] = set()

    def hire(self) -> None:
        """Ask for a worker, which is to make its environments."""
        self._actor = self._handed("a worker", self._class.remote)
        self._versions = self._sent("versions")
        self._opened = self._sent("open", self._fns)

    def first(self) -> tuple[Any, Any, str | None]:
        """See `ready`; a worker that dies before its environments are there is not replaced."""
        try:
            return self.ready()
        except self._ray.exceptions.RayError as error:
            raise _not_made(error) from error

    def ready(self) -> tuple[Any, Any, str | None]:
        """What the first environment is like, once the worker that was just hired has them all."""
        exceptions, seconds = self._ray.exceptions, self._seconds
        try:
            there = self._ray.get(self._versions, timeout=WAIT_S)
        except exceptions.GetTimeoutError:
            cores, gpus = map(self._ray.cluster_resources().get, ("CPU", "GPU"), (0.0, 0.0))
            raise ClusterError(
                f"workers={self._needs.count}: one of them had no place after {WAIT_S:g} s. Each "
                f"asks for {self._needs.cpus:g} CPU, {self._needs.gpus:g} GPU, and the cluster has "
                f"{cores:g} and {gpus:g}: ask for less."
            ) from None
        fault, notes = compared(versions(PACKAGES), there)
        if fault:
            raise ClusterError(fault)
        for words in set(notes) - self._told:
            warnings.warn(words, stacklevel=2)
        self._told.update(notes)
        try:
            found: tuple[Any, Any, str | None] = self._ray.get(self._opened, timeout=seconds)
        except exceptions.GetTimeoutError:
            raise ClusterError(
                f"timeout_s={self._needs.timeout_s:g}: the {len(self.members)} environments of a "
                f"worker were not made after {seconds:g} s. Give them longer."
            ) from None
        except full_store(self._ray) as error:
            raise store_is_full("env_fns") from error
        except exceptions.RayTaskError as error:
            raise _not_made(error) from error
        return found

    def send(self, way: str, *given: Any) -> Any:
        """Have the worker do something.

        Returns:
            What will be the answer; None where it could not be sent, which `receive` explains.
        """
        self._answer = None
        if self._actor is not None:
            with suppress(ClusterError, InvalidTypeError):
                self._answer = self._sent(way, *given)
        return self._answer

    def receive(self, way: str, *given: Any) -> Any:
        """What comes of `send`; from a new worker where the old one died, or took too long.

        It can be asked for again, also after an error; what was done is not done again.

        Args:
            way: See `send`.
            given: See `send`.

        Raises:
            ClusterError: If it failed in all trials, the object store is full, or a new worker's
                environments could not be brought to where they were.
            InvalidTypeError: If what is given cannot be pickled.
            Exception: Whatever an environment raised.
        """
        seconds, said = self._seconds, ""
        for trial in range(self._needs.retries + 1):
            try:
                if trial or self._actor is None:
                    self._renew()
                if self._answer is None:
                    self._answer = self._sent(way, *given)
                found = self._found(self._answer, seconds)
            except self._ray.exceptions.GetTimeoutError:
                said = f"took longer than {seconds:g} s"
            except self._ray.exceptions.RayError as error:
                said = f"died: {words_of(error)}"
            else:
                for past in self.past.values():
                    past.seconds += time.monotonic() - self._sent_at
                return found
        self.end()  # it may hang, and is to hold no place
        raise ClusterError(
            f"{way} of environments failed in {self._needs.retries + 1} trials: the last worker "
            f"{said}"
        )

    @property
    def _seconds(self) -> float:
        """That all environments may take, one after another."""
        return self._needs.timeout_s * len(self.members)

    def _renew(self) -> None:
        """Another worker, whose environments are where those of the old one were."""
        self.end()
        try:
            self.hire()
            self.ready()
            found = self._restored([self.past[index] for index in self.members])
        except BaseException:  # nobody is to take it for the old one
            self.end()
            raise
        for index, what in zip(self.members, found, strict=True):
            if what:
                warnings.warn(
                    f"environment {index} was made anew, as its worker died or hung, and the same "
                    f"random numbers and actions gave another {what}: from here on, results are "
                    "not those that they would have been. Does it draw random numbers of its own, "
                    "or measure? Those of gymnasium.Env, self.np_random, are restored.",
                    stacklevel=2,
                )

    def _restored(self, past: list[Past]) -> list[str]:
        """See `EnvWorker.restore`."""
        seconds = self._seconds + SLOWER * max(one.seconds for one in past)
        answer = self._sent("restore", past)
        try:
            found: list[str] = self._found(answer, seconds)
        except self._ray.exceptions.RayError:
            raise
        except Exception as error:
            raise ClusterError(
                "a worker died, and its environments could not be brought to where they were: "
                f"{type(error).__name__}: {error}. The same random numbers and actions have to "
                "give the same steps again."
            ) from error
        return found

    def _found(self, answer: Any, timeout: float) -> Any:
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(answer, timeout=timeout)
        except full_store(self._ray) as error:
            raise store_is_full("an answer of environments") from error
        except exceptions.RayTaskError as error:  # the environment's own
            cause = error.cause
            if isinstance(cause, Exception) and not isinstance(cause, exceptions.RayError):
                raise cause from error
            raise ClusterError(f"an environment failed: {words_of(error)}") from error

    def _sent(self, way: str, *given: Any) -> Any:
        what, self._sent_at = f"{way} of environments", time.monotonic()
        if way not in _BY_VALUE:
            return self._handed(what, getattr(self._actor, way).remote, *given)
        with by_value():
            pickled = self._handed(what, cloudpickle.dumps, given)
        return self._handed(what, self._actor.unpacked.remote, way, pickled)

    def _handed(self, what: str, call: Callable[..., Any], *given: Any) -> Any:
        """What a call gives that pickles what it is given, and may put it into the store."""
        try:
            return call(*given)
        except full_store(self._ray) as error:
            raise store_is_full(what) from error
        except self._ray.exceptions.RayError as error:
            raise ClusterError(f"{what}: Ray failed: {words_of(error)}") from error
        except Exception as error:  # of pickling anything
            raise InvalidTypeError(
                f"{what}: something in it cannot be pickled, to be sent to a worker: "
                f"{words_of(error.__cause__ or error)}. What belongs to this process, such as "
                "files, locks and connections, has to be made in the worker, by the functions in "
                "env_fns."
            ) from error

    def end(self) -> None:
        """End the worker, whatever it is at."""
        actor, self._actor, self._answer = self._actor, None, None
        if actor is not None and self._ray.is_initialized():  # else Ray would start itself
            with suppress(Exception):  # it may be dead, or the connection
                self._ray.kill(actor, no_restart=True)


def close_all(ray: Any, crews: Sequence[Crew]) -> None:
    """Have workers close their environments, as far as they can in time, and end them.

    Args:
        ray: The module.
        crews: Which are not to be used any more.
    """
    failed: list[str] = []
    try:
        if ray.is_initialized():
            sent = [crew.send("close") for crew in crews]
            answers, ready = [answer for answer in sent if answer is not None], []
            with suppress(Exception):  # the connection may be gone
                ready, _ = ray.wait(answers, num_returns=len(answers), timeout=CLOSE_S)
            for answer in ready:
                with suppress(ray.exceptions.RayError):  # it may be dead
                    failed += ray.get(answer, timeout=CLOSE_S)
    finally:
        for crew in crews:
            crew.end()
    if failed:
        warnings.warn(f"environments could not be closed: {'; '.join(failed)}", stacklevel=2)


def _not_made(error: BaseException) -> ClusterError:
    return ClusterError(
        f"a worker could not make its environments: {words_of(error)} What they import must be "
        "on its machine: install it there, or send it along, "
        "ray.init(runtime_env={'py_modules': [...]})."
    )
