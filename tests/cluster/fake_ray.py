"""What looks like Ray to code that uses it, and runs everything in this process, at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

exceptions = pytest.importorskip("ray.exceptions")


def first(name: str, error: type[Exception]) -> Callable[..., None]:
    """What happens to the first call of a name: an error."""
    left = [error]

    def happens(called: str, *given: Any) -> None:
        if called == name and left:
            raise left.pop()

    return happens


def name_of(name: str, given: Any) -> str:
    """Of what is called; of a call with pickled arguments, what that does."""
    return str(given[0]) if name == "unpacked" else name


class Answer:
    """What a call has given, or raised."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self.value = self.error = None
        try:
            self.value = run()
        except exceptions.RayError as error:
            self.error = error
        except Exception as error:
            self.error = exceptions.RayTaskError("call", "", error)


class Hanging:
    """What a call will give that never ends."""


class FakeRay:
    """Tasks and actors that run when they are called.

    Attributes:
        happens: called before every call with its name and arguments; what it raises, a death or a
            delay, is what comes of the call.
        sends: called with a name and arguments that are sent, before they are; what it raises is
            raised at once, as by a full object store.
        calls: names of what was called.
        hangs: names of what is called and never ends.
        cancelled: calls that were given up.
        waited: how many answers were waited for, by wait.
        lent: what each machine has.
        options: with which tasks and actors were called.
    """

    exceptions = exceptions
    cloudpickle = SimpleNamespace(register_pickle_by_value=lambda module: None)
    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(
            NodeAffinitySchedulingStrategy=lambda node, soft: (node, soft)
        )
    )

    def __init__(
        self,
        happens: Callable[..., None] = lambda name, *given: None,
        sends: Callable[..., None] = lambda name, *given: None,
    ) -> None:
        self.happens, self.sends, self.calls = happens, sends, []
        self.killed: list[Any] = []
        self.waits: list[float | None] = []
        self.limits: list[float | None] = []  # of waiting for several
        self.hangs: set[str] = set()
        self.cancelled: list[Any] = []
        self.waited: list[int] = []
        self.options: list[dict[str, Any]] = []
        self.lent: list[dict[str, float]] = [{"CPU": 1.0, "phone": 1.0}]

    def remote(self, what: Any = None, **options: Any) -> Any:
        if what is None:
            return self.remote
        run = (lambda *given: Actor(self, what(*given))) if isinstance(what, type) else None
        return Remote(self, what.__name__, run or (lambda *given: self._answer(what, given)))

    def _answer(self, function: Any, given: Any) -> Any:
        if function.__name__ in self.hangs:
            return Hanging()
        return Answer(self._call(function, given))

    def _call(self, function: Any, given: Any) -> Callable[[], Any]:
        def run() -> Any:
            name = name_of(function.__name__, given)
            self.calls.append(name)
            self.happens(name, *given)
            return function(*given)

        return run

    def get(self, answer: Any, timeout: float | None = None) -> Any:
        self.waits.append(timeout)
        if isinstance(answer, Answer):
            if answer.error is not None:
                raise answer.error
            return answer.value
        return answer

    def put(self, value: Any) -> Any:
        self.sends("put", value)
        return value

    def is_initialized(self) -> bool:
        return True

    def wait(
        self,
        answers: list[Any],
        num_returns: int = 1,
        timeout: Any = None,
        fetch_local: bool = True,
    ) -> Any:
        self.limits.append(timeout)
        self.waited.append(len(answers))
        ready = [one for one in answers if not isinstance(one, Hanging)][:num_returns]
        return ready, [one for one in answers if one not in ready]

    def kill(self, actor: Any, no_restart: bool = True) -> None:
        self.killed.append(actor)

    def cancel(self, answer: Any, force: bool = False) -> None:
        self.cancelled.append(answer)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": str(number), "Alive": True, "Resources": lent}
            for number, lent in enumerate(self.lent)
        ]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    @contextmanager
    def connected(self, *arguments: Any, **options: Any) -> Any:
        yield self


class Remote:
    def __init__(self, ray: FakeRay, name: str, run: Callable[..., Any]) -> None:
        self._ray, self._name, self._run = ray, name, run

    def options(self, **options: Any) -> Remote:
        self._ray.options.append(options)
        return self

    def remote(self, *given: Any) -> Any:
        self._ray.sends(name_of(self._name, given), *given)
        return self._run(*given)


class Actor:
    def __init__(self, ray: FakeRay, inner: Any) -> None:
        self._ray, self._inner = ray, inner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        return Remote(self._ray, name, lambda *given: Answer(self._ray._call(method, given)))
