"""What a run of the benchmark judged: every network, counted, until the evaluations are spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agents.errors import BenchmarkError
from agents.stopping import check_stop, end_process

MOST_RAISES = 1000  # of `EvaluationsSpent`, by a loop that catches everything


class EvaluationsSpent(BaseException):
    """Raised by an environment of the benchmark where all evaluations of the run are spent.

    A training that is to return what it learned catches it, by ``contextlib.suppress`` or
    ``except``; one that does not is ended by it, and has no policy. It is no `Exception`, so that
    a broad ``except Exception`` in a loop does not keep the loop going.
    """


@dataclass(frozen=True)
class Judged:
    """A network that was judged.

    Attributes:
        accuracy: Return of its episode: the accuracy on the validation split, in [0, 1].
        cost: Sum of ``info["cost"]``, to be held against ``cost_limit``.
        cost_limit: The limit of its episode.
        feasible: Whether it is within every limit.
        costs: By budget, 1.0 = nothing removed; empty where the environment names none.
        problem: What its environment prunes; None where that names none.
        choice: What the environment decided, by which the network is known again; see
            `agents.benchmark.networks`.
    """

    accuracy: float
    cost: float
    cost_limit: float
    feasible: bool
    costs: Mapping[str, float] = field(default_factory=dict)
    problem: Any = field(default=None, repr=False)
    choice: Any = field(default=None, repr=False)

    def is_within(self, limits: Mapping[str, float] | None) -> bool:
        """Whether it is within limits by budget; without any, within those of its episode."""
        if limits is None:
            return self.feasible
        return all(self.costs[name] <= limit for name, limit in limits.items())


@dataclass
class Best:
    """The most accurate network within limits, of all that were judged.

    Attributes:
        limits: By budget; None = those of each episode.
        network: The network; None as long as there is none.
        evaluation: Its number, from 1.
    """

    limits: Mapping[str, float] | None = None
    network: Judged | None = None
    evaluation: int = 0

    @property
    def accuracy(self) -> float:
        """Of the network; 0.0 where there is none."""
        return 0.0 if self.network is None else self.network.accuracy

    def see(self, network: Judged, evaluation: int) -> bool:
        """Take a network that is better; returns whether it is."""
        if not network.is_within(self.limits) or (
            self.network is not None and network.accuracy <= self.network.accuracy
        ):
            return False
        self.network, self.evaluation = network, evaluation
        return True


class Ledger:
    """Counts the evaluations of a run, and remembers the best networks.

    An evaluation is a network that was judged, or an episode that was begun and given up: the
    costs of its decisions are knowledge, too.

    Args:
        budget: How many evaluations there are; None = any number.
        limits: By which the best network is looked for, each on its own; None in it = the limits
            of the environment.

    Attributes:
        evaluations: Spent so far.
        infeasible: How many networks broke a limit.
        given_up: How many episodes were given up.
        open: How many episodes are begun and not ended.
        violation: Sum of ``max(0, cost - limit)`` over all networks.
        best: The best network for each of ``limits``.
        curve: [evaluations, accuracy of the best network for each of ``limits``], where one grew.
        last: The latest network.
    """

    def __init__(
        self, budget: int | None, limits: Sequence[Mapping[str, float] | None] = (None,)
    ) -> None:
        self.budget = budget
        self.best = [Best(one) for one in limits]
        self.evaluations = self.infeasible = self.given_up = self.open = 0
        self._raised, self._closed = 0, False
        self.violation = 0.0
        self.curve: list[list[float]] = []
        self.last: Judged | None = None

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied into another process, where nothing would be counted."""
        raise BenchmarkError(
            "environments of the benchmark are counted in one process and cannot be sent to "
            "another: use make_env(num_envs=N) or DummyVecEnv in place of AsyncVectorEnv or "
            "SubprocVecEnv."
        )

    @property
    def judged(self) -> int:
        """Networks so far."""
        return self.evaluations - self.given_up

    @property
    def left(self) -> float:
        """Evaluations that are left; infinite without a budget."""
        return float("inf") if self.budget is None else self.budget - self.evaluations

    def check(self) -> None:
        """Raise `EvaluationsSpent` where none is left."""
        check_stop()
        self.check_open()
        if self.left <= 0:
            self._raised += 1
            if self._raised > MOST_RAISES:
                end_process(
                    f"error: the training goes on although all {self.budget} evaluations are "
                    f"spent, as it catches EvaluationsSpent: it was told {MOST_RAISES} times. "
                    "Leave the loop there: except EvaluationsSpent: break."
                )
            raise EvaluationsSpent(f"all {self.budget} evaluations are spent.")

    def check_open(self) -> None:
        """Raise a BenchmarkError where the run has ended."""
        if self._closed:
            raise BenchmarkError(
                "this environment is of a training that has ended; nothing more is judged in it. A "
                "final policy decides by observations alone, and each run makes environments of "
                "its own."
            )

    def close(self) -> None:
        """End the counting; episodes that are begun and not ended are given up."""
        for _ in range(self.open):
            self.give_up()
        self._closed = True

    def add(self, network: Judged) -> None:
        """Count a network.

        Raises:
            EvaluationsSpent: None was left, so that it does not count.
        """
        self.check()
        self.evaluations += 1
        self.open -= 1
        self.last = network
        if not network.feasible:
            self.infeasible += 1
            self.violation += max(0.0, network.cost - network.cost_limit)
        found = [one.see(network, self.evaluations) for one in self.best]
        if any(found):
            self.curve.append([self.evaluations, *(one.accuracy for one in self.best)])

    def give_up(self) -> None:
        """Count an episode that was begun and not ended."""
        self.open -= 1
        if self.left > 0:
            self.evaluations += 1
            self.given_up += 1
