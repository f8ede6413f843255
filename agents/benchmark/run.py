"""One run of the benchmark: train on a task with a seed, judge what comes of it, make a row."""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch as th

from agents.benchmark.counted import CountedEnv
from agents.benchmark.environments import MakeEnv, Problems
from agents.benchmark.leaderboard_rows import FORMAT
from agents.benchmark.ledger import Best, EvaluationsSpent, Judged, Ledger
from agents.benchmark.networks import (
    check_digest,
    counts_of,
    means_of,
    table_digest,
    test_accuracy,
)
from agents.benchmark.policies import Policy, as_policy
from agents.benchmark.suite import Suite, Task
from agents.errors import BenchmarkError
from agents.stopping import check_stop

Row = dict[str, Any]
# (make_env, seed, budget) -> policy, (policy, wrap) or None
Train = Callable[[MakeEnv, int, int], Any]

_PACKAGES = ("prune-gym", "numpy", "torch", "gymnasium", "stable-baselines3", "sb3-contrib")
_POLICY_SEED = 100_000  # policies are judged by other random numbers than they were trained by


class Runner:
    """Runs on one task; what it prunes is made once.

    Args:
        suite: Of the task.
        task: The task.
    """

    def __init__(self, suite: Suite, task: Task) -> None:
        self.suite, self.task = suite, task
        self.problems = Problems(task, self._check_table)

    def run(self, train: Train, algorithm: str, seed: int) -> Row:
        """Train and judge.

        Args:
            train: The algorithm.
            algorithm: Its name.
            seed: Of the run.

        Returns:
            A row; see `agents.benchmark.rows`.

        Raises:
            BenchmarkError: What ``train`` returned is no policy, or the task takes one and there
                is none.
        """
        task, began = self.task, time.monotonic()
        ledger = Ledger(task.evaluations, [None] if task.by_policy else task.limits)
        make_env = MakeEnv(self.problems, seed, ledger)
        with _one_thread(), _own_randomness(seed):
            try:
                policy = as_policy(train(make_env, seed, task.evaluations))
                ended_by_spending = False
            except EvaluationsSpent:
                policy, ended_by_spending = None, True
            finally:
                ledger.close()
            check_stop()
            if task.by_policy and policy is None:
                raise BenchmarkError(_no_policy(task, ended_by_spending))
            shows = None if policy is None else self._policy(policy, seed)
        best = shows.pop("best") if task.by_policy and shows else ledger.best
        places = [which["problem"] for which in self._where]
        parts = [self._part(one, place) for one, place in zip(best, places, strict=True)]
        return {
            "format": FORMAT,
            "protocol": self.suite.protocol,
            "suite_hash": self.suite.hash,
            "task": task.name,
            "algorithm": algorithm,
            "seed": seed,
            "budget": task.evaluations,
            "evaluations": ledger.evaluations,
            "best": _best(parts),
            "parts": parts,
            "score": task.score([one.accuracy for one in best]),
            "regret": self._regret(best),
            "curve": [] if task.by_policy else ledger.curve,
            "infeasible_evaluations": ledger.infeasible,
            "given_up_episodes": ledger.given_up,
            "cumulative_violation": ledger.violation,
            "policy": shows,
            "wall_s": round(time.monotonic() - began, 3),
            "versions": versions(),
        }

    # -- what it found -------------------------------------------------------------------------

    @property
    def _where(self) -> list[dict[str, Any]]:
        """Per part: its problem's place among those of the task, and options of a reset."""
        first = self.task.training[0]
        return [
            {"problem": one.get("problem", first), "options": one.get("options")}
            for one in self.task.judged
        ]

    def _part(self, best: Best, which: int) -> dict[str, Any] | None:
        if best.network is None:
            return None
        return {**self._shown(best.network, which), "evaluation": best.evaluation}

    def _shown(self, network: Judged, which: int) -> dict[str, Any]:
        """A network in a row."""
        problem = self.problems.arguments(which).get("problem")
        return {
            "accuracy": network.accuracy,
            "test_accuracy": test_accuracy(problem, network.choice),
            "costs": dict(network.costs),
            "counts": counts_of(network.choice),
        }

    def _regret(self, best: list[Best]) -> float | None:
        task = self.task
        if not task.optimum or task.best is None:
            return None
        return float(max(0.0, task.best - np.mean([one.accuracy for one in best])))

    # -- the final policy ----------------------------------------------------------------------

    def _policy(self, policy: Policy, seed: int) -> dict[str, Any]:
        """Play the final policy on every judged part; with the best networks of its episodes."""
        fixed: list[dict[str, Any]] = []
        drawn: list[dict[str, Any]] = []
        within: list[bool] = []
        best = [Best(limits) for limits in self.task.limits]
        for one, place in zip(best, self._where, strict=True):
            ledger = Ledger(None)
            env = policy.wrapped(CountedEnv(self.problems.make(place["problem"]), ledger))
            env.action_space.seed(_POLICY_SEED + seed)
            for episode in range(1 + self.suite.policy_episodes):
                check_stop()
                policy.play(
                    env,
                    deterministic=episode == 0,
                    seed=_POLICY_SEED + 1000 * seed + episode,
                    options=None if place["options"] is None else dict(place["options"]),
                )
                network = ledger.last
                if network is None or (ledger.evaluations, ledger.given_up) != (episode + 1, 0):
                    raise BenchmarkError(
                        f"task {self.task.name!r}: the final policy is judged by one episode at a "
                        "time, which env ends; neither it nor wrap(env) may play others, or give "
                        "one up."
                    )
                one.see(network, episode + 1)
                (drawn if episode else fixed).append(self._shown(network, place["problem"]))
                within.append(network.is_within(one.limits))
            env.close()
        each = 1 + self.suite.policy_episodes  # of each part, the first is not sampled
        broken = [not fits for number, fits in enumerate(within) if number % each]
        return {
            "deterministic": {**_means(fixed), "feasible": all(within[::each]), "parts": fixed},
            "sampled": {
                **_means(drawn),
                "violation_rate": float(np.mean(broken)),
                "episodes": len(drawn),
            },
            **({"best": best} if self.task.by_policy else {}),
        }

    # -- checks --------------------------------------------------------------------------------

    def _check_table(self, given: Mapping[str, Any], problem: Any) -> None:
        if hasattr(problem, "table"):
            check_digest(self.suite, str(given.get("table")), table_digest(problem.table))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run gives."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # sb3-contrib need not be there
            continue
    return found


def _no_policy(task: Task, ended_by_spending: bool) -> str:
    why = "train returned None"
    if ended_by_spending:
        why = "train was ended by EvaluationsSpent, as nothing in it caught that"
    return (
        f"task {task.name!r} scores the final policy, and there is none: {why}. Return a policy: "
        "with contextlib.suppress(agents.benchmark.EvaluationsSpent): around the training."
    )


def _means(networks: list[dict[str, Any]]) -> dict[str, float | None]:
    return means_of([(one["accuracy"], one["test_accuracy"]) for one in networks])


def _best(parts: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Means over all parts; None where one of them has no network within its limits."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return {**_means(known), "evaluation": max(part["evaluation"] for part in known)}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, so that runs beside each other do not fight for cores."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(before)


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Draw random numbers of torch, by which policies are sampled, NumPy and Python by the seed."""
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        generator = np.random.default_rng(seed)
        words = generator.integers(2**32, size=624, dtype=np.uint32)
        np.random.set_state(("MT19937", words, 624, 0, 0.0))  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)
