"""Budgets that are measured on one machine of the cluster, with nothing of ours beside them."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from agents.ray_errors import full_store, words_of
from prune_gym.budgets import Budget
from prune_gym.cluster.hiring import Hiring
from prune_gym.cluster.shipping import Refused, pickled, store_is_full, stored
from prune_gym.errors import ClusterError, WorkerError


class Measurer:
    """A process that measures budgets, one at a time, on a machine that it has for itself.

    It asks for all cores and GPUs of the machine, so that nothing else that asks for some runs
    there meanwhile.

    Args:
        ray: the module, connected.
        resource: name of a resource that the machine was started with.
        timeout_s: seconds that a measurement may take.
        retries: how often it is repeated after the process died or took too long.
        runtime_env: of Ray.
        report: called with words where it has to wait.

    Raises:
        ClusterError: no machine has the resource, or no process comes up there.
    """

    def __init__(
        self,
        ray: Any,
        resource: str,
        timeout_s: float,
        retries: int,
        runtime_env: Mapping[str, Any] | None,
        report: Callable[[str], None] | None,
    ) -> None:
        self._ray, self._timeout_s, self._retries = ray, timeout_s, retries
        self._resource, self._report = resource, report
        self._runtime_env = {} if runtime_env is None else {"runtime_env": dict(runtime_env)}
        self._hiring: Hiring | None = None
        self._actor: Any = None
        self._one_at_a_time, self._closing = threading.Lock(), threading.Lock()
        self._is_over = False
        # of each network the state that was sent, and where it is
        self._sent: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Any]]
        self._sent = weakref.WeakKeyDictionary()
        try:
            self._hired("budgets")  # first of all, before workers take the machine's cores
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"measure_on={resource!r}: no process came up on that machine: {words_of(error)}"
            ) from error

    def placed(self, budget: Budget) -> Budget:
        """The budget, measured there; one that counts is left as it is."""
        if budget.counted is not None or isinstance(budget, BudgetElsewhere):
            return budget
        same = {f.name: getattr(budget, f.name) for f in fields(Budget) if f.init}
        return BudgetElsewhere(**same, budget=budget, measurer=self)

    def measure(self, budget: Budget, way: str, *arguments: Any) -> float:
        """Call a method of a budget there; networks that come again are sent once.

        Raises:
            BudgetError: it raised, or gave nonsense.
            ClusterError: the session is over, or no machine has the resource any more.
            WorkerError: the process died over it each time, or took too long.
        """
        what = f"budget {budget.name!r}"
        self.check_open(what)
        parts = [pickled(getattr(budget, way)), *map(self._part, arguments)]
        with self._one_at_a_time:
            return float(self._answered(what, parts))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives there.

        Raises:
            ClusterError: the session is over, or no machine has the resource any more.
            WorkerError: the process died over it each time, or took too long.
        """
        what = f"{function.__name__}()"
        self.check_open(what)
        parts = [*map(pickled, (function, *arguments))]
        with self._one_at_a_time:
            return self._answered(what, parts)

    def check_open(self, what: str) -> None:
        """Raise a ClusterError where the session is over, in which something was to be measured."""
        if self._is_over:
            raise ClusterError(
                f"{what} is measured on a machine of a cluster, and the session with it is over: "
                "keep to `with workers.session():`."
            )

    def _answered(self, what: str, parts: list[Any]) -> Any:
        ray, said = self._ray, ""
        for _ in range(self._retries + 1):
            try:
                answer = self._hired(what).call.remote(*parts)
                found = ray.get(answer, timeout=self._timeout_s)
            except full_store(ray) as error:
                raise store_is_full(f"{what} is measured elsewhere: {words_of(error)}") from error
            except ray.exceptions.RayTaskError as error:
                raise WorkerError(f"{what} was not measured: {words_of(error)}") from error
            except ray.exceptions.GetTimeoutError:
                said = f"took longer than {self._timeout_s:g} s"
            except ray.exceptions.RayError as error:
                said = words_of(error)
            else:
                if isinstance(found, Refused):
                    raise found.error
                return found
            self._dismiss()
        raise WorkerError(
            f"{what} could not be measured in {self._retries + 1} trials, the last of which {said}."
        )

    def close(self) -> None:
        """End the process; nothing is measured any more."""
        with self._closing:
            self._is_over = True
        self._dismiss()

    def _dismiss(self) -> None:
        if self._hiring is not None:
            self._hiring.dismiss_all()
        self._actor = None

    def _part(self, value: Any) -> Any:
        """A pickled argument; a network that comes again, as it was, is in the store already."""
        if not isinstance(value, nn.Module):
            return pickled(value)
        state = [(id(one), one._version) for one in (*value.parameters(), *value.buffers())]
        known, place = self._sent.get(value, (None, None))
        if known != state:  # the first time, or it was trained since
            sent = pickled(value)
            place = stored(self._ray, sent, "a network", len(sent))
            self._sent[value] = state, place
        return place

    def _hired(self, what: str) -> Any:
        """The process; another one where it is gone, unless the session is over."""
        if self._actor is None:
            needs = _whole_machine(self._ray, self._resource) | self._runtime_env
            with self._closing:
                self.check_open(what)
                self._hiring = Hiring(self._ray, needs, self._report)
            self._actor = self._hiring.hire()
        return self._actor


@dataclass(frozen=True, eq=False)
class BudgetElsewhere(Budget):
    """A budget that a `Measurer` measures; in the workers it is the plain one, and not called."""

    budget: Budget | None = None
    measurer: Measurer | None = None

    def __call__(self, network: nn.Module, example: Any) -> float:
        """See `Budget`."""
        return self._there("__call__", network, example)

    def relative(
        self, network: nn.Module, unpruned: nn.Module, example: Any, unpruned_value: float
    ) -> float:
        """See `Budget.relative`."""
        return self._there("relative", network, unpruned, example, unpruned_value)

    def _there(self, way: str, *arguments: Any) -> float:
        if self.measurer is None or self.budget is None:
            raise ClusterError(f"budget {self.name!r}: nothing measures it.")
        return self.measurer.measure(self.budget, way, *arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        """As the plain budget."""
        return copy.copy, (self.budget,)

    def __deepcopy__(self, memo: dict[int, Any]) -> BudgetElsewhere:
        """Itself: it belongs to its process."""
        return self


def check_sessions(budgets: Iterable[Budget]) -> None:
    """Raise where the session is over with the machine that measures a budget.

    Args:
        budgets: of a problem.

    Raises:
        ClusterError: names the budget, and what can be done.
    """
    for budget in budgets:
        if isinstance(budget, BudgetElsewhere) and budget.measurer is not None:
            budget.measurer.check_open(f"budget {budget.name!r}")


def check_measured(budgets: Iterable[Budget]) -> None:
    """Raise where workers would measure a budget, each on its machine and beside the others.

    Args:
        budgets: of a problem.

    Raises:
        ClusterError: names the budget, and what can be done.
    """
    budgets = list(budgets)
    check_sessions(budgets)
    for budget in budgets:
        if not budget.is_deterministic and not isinstance(budget, BudgetElsewhere):
            raise ClusterError(
                f"budget {budget.name!r} may differ from machine to machine, and with what runs "
                "beside it: name a resource of the one machine that is to measure it (--measure-on "
                "RESOURCE; in Python: with workers.session(): make_problem(...)), leave workers "
                "out, or, where equal networks give equal numbers, say so: Budget(..., "
                "deterministic=True)."
            )


def _whole_machine(ray: Any, resource: str) -> dict[str, Any]:
    """Options that ask for all of the first machine that has a resource."""
    known: set[str] = set()
    for node in ray.nodes():
        if not node.get("Alive"):
            continue
        lent = node["Resources"]
        known |= {name for name in lent if ":" not in name and name not in _OF_ALL}
        if resource in lent:
            strategies = ray.util.scheduling_strategies
            return {
                "num_cpus": lent.get("CPU", 0.0),
                "num_gpus": lent.get("GPU", 0.0),
                "resources": {resource: lent[resource]},
                "scheduling_strategy": strategies.NodeAffinitySchedulingStrategy(
                    node["NodeID"], soft=False
                ),
            }
    others = f"; there are {', '.join(sorted(known))}" if known else ""
    raise ClusterError(
        f"measure_on={resource!r}: no machine of the cluster has such a resource{others}. Start "
        f"the one that is to measure with it: ray start --resources '{{\"{resource}\": 1}}'."
    )


_OF_ALL = ("CPU", "GPU", "memory", "object_store_memory")
