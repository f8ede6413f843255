"""`RayWorkers`: how many processes of a Ray cluster judge the networks of a search, and where."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agents.ray_cluster import LOCAL, connected, wanted_address
from prune_gym.budgets.resolve import placing
from prune_gym.cluster.hiring import HiringJudges
from prune_gym.cluster.measuring import BudgetElsewhere, Measurer, check_measured
from prune_gym.cluster.pool import Pool
from prune_gym.cluster.shipping import Question
from prune_gym.errors import (
    ClusterError,
    InvalidTypeError,
    InvalidValueError,
    MissingLibraryError,
    WorkerError,
)
from prune_gym.problem.evaluator import Bar, Evaluator, Judgement
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Masks
from prune_gym.training.recovery import is_fixed
from prune_gym.utils.arguments import MOST_WORKERS, whole_number
from prune_gym.utils.stopping import check_stop, stopping
from prune_gym.utils.threads import Workers, usable_cores

MOST_THREADS = 256  # of this process that wait for workers
AT_ONCE = 4  # networks handed out per worker, so that none waits for the next
FOREVER_S = 1e9
LOOK_EVERY_S = 0.5  # whether a stop was asked for


@dataclass(frozen=True)
class RayWorkers:
    """Workers in a Ray cluster, for `prune_gym.search`.

    Each is a process that holds the problem. Its arrays, weights and images, lie in the object
    store once, and every machine maps its own copy. Results come in the order of the networks,
    whoever judged them, so that a seeded search gives the same networks with 1, 2 or 8 workers as
    with none.

    Args:
        n: how many; None = one per usable core of this machine.
        address: ``"auto"`` or ``"HOST:PORT"`` of a cluster; None = that of ``RAY_ADDRESS``, else a
            local one, started for the search and stopped after it. A program that is connected
            (``ray.init``) stays so.
        gpus_per_worker: of each, e.g. 0.5; networks are then judged on the GPU. Memory is not
            divided: see to it that so many fit.
        cpus_per_worker: cores of each, which torch uses; above 0 with ``measure_on``.
        measure_on: name of a resource of one machine, on which budgets that measure are called, one
            at a time, with nothing else of the cluster beside (``ray start --resources``).
        timeout_s: seconds that judging a network may take before its worker is ended.
        retries: how often a network is judged anew after its worker died, ran out of memory, or
            took too long, before `WorkerError` names it.
        runtime_env: of Ray, for what the workers need beyond what is installed. Code of the
            problem's own (a network, a budget) goes along anyway.
        report: called with words where workers have to wait for their place.

    Raises:
        ValueError: a number that is not allowed.
    """

    n: int | None = None
    address: str | None = None
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0
    measure_on: str | None = None
    timeout_s: float = 3600.0
    retries: int = 3
    runtime_env: Mapping[str, Any] | None = None
    report: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.n is not None:
            whole_number("n", self.n, 1, MOST_WORKERS)
        whole_number("retries", self.retries, 0, 1000)
        for name in ("gpus_per_worker", "cpus_per_worker"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1024.0 or (value > 1.0 and value != int(value)):
                raise InvalidValueError(
                    f"{name}={value!r}: expected a share of one from 0 to 1, or a whole number."
                )
        if not 0.0 < self.timeout_s <= 1e9:
            raise InvalidValueError(f"timeout_s={self.timeout_s!r}: expected seconds above 0.")
        if self.measure_on is not None and not self.cpus_per_worker:
            raise InvalidValueError(
                "cpus_per_worker=0 with measure_on: workers that ask for no cores would run beside "
                "what is measured; give them a share, such as 0.1."
            )

    @property
    def count(self) -> int:
        """How many workers there are to be."""
        return self.n or usable_cores()

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Be connected to the cluster; gives the module ``ray``.

        Raises:
            ClusterError: there is no such cluster.
            MissingLibraryError: Ray is not installed.
        """
        cores = int(-(-self.count * self.cpus_per_worker // 1))
        with connected(
            self.address, n_cpus=max(1, cores), error=ClusterError, missing=MissingLibraryError
        ) as ray:
            self._check_place(ray)
            yield ray

    def _check_place(self, ray: Any) -> None:
        """Raise at once where a local cluster can never have what is asked for."""
        if not self.gpus_per_worker or wanted_address(self.address) != LOCAL:
            return
        lent = float(ray.cluster_resources().get("GPU", 0.0))
        if lent < self.gpus_per_worker:
            raise ClusterError(
                f"gpus_per_worker={self.gpus_per_worker:g}: this machine has {lent:g} GPUs. Leave "
                "it out, or name a cluster that has some (address)."
            )

    @contextmanager
    def judging(self, problem: PruningProblem) -> Iterator[Workers]:
        """Have workers judge the networks of a problem while the block lasts.

        Gives threads that wait for them: whoever evaluates several networks at once, searches,
        environments, code of your own, does so in these.

        Args:
            problem: what is judged.

        Raises:
            ClusterError: there is no such cluster, or the problem does not fit into it.
            SharingError: something in the problem cannot be pickled.
        """
        check_measured(problem.budgets)
        with self._pool(problem) as pool:
            n_threads = min(MOST_THREADS, AT_ONCE * self.count)
            remote = RemoteEvaluator(problem.evaluator, pool, problem)
            with Workers(n_threads, problem.device) as threads, problem.judged_by(remote):
                yield threads

    def answers(
        self,
        problem: PruningProblem,
        questions: Sequence[Any],
        on_answer: Callable[[int, Any], None],
    ) -> list[Any]:
        """Have workers answer questions on a problem, one each, however long it takes.

        A question that no worker could answer costs the others nothing.

        Args:
            problem: which the workers hold.
            questions: see `prune_gym.cluster.pool.Pool.ask`.
            on_answer: called with the index of a question that is answered, and the answer.

        Returns:
            The answers, in order; where there is none, the error.

        Raises:
            ClusterError: there is no such cluster, or the problem does not fit into it.
            Stopped: a stop was asked for; nothing is waited for then.
        """
        n = min(self.count, len(questions))
        with stopping("stopping"), replace(self, n=n, timeout_s=FOREVER_S)._pool(problem) as pool:
            asked = {pool.ask(one): index for index, one in enumerate(questions)}
            waiting = set(asked)
            while waiting:
                check_stop()
                done, waiting = wait(waiting, LOOK_EVERY_S, FIRST_COMPLETED)
                for answer in done:
                    if _answered(answer):
                        on_answer(asked[answer], answer.result())
            return [answer.exception() or answer.result() for answer in asked]

    @contextmanager
    def _pool(self, problem: PruningProblem) -> Iterator[Pool]:
        with self.connected() as ray:
            hiring = HiringJudges(
                ray,
                self._needs(problem),
                self.report,
                problem,
                threads=max(1, int(self.cpus_per_worker)),
                device="cuda" if self._gpus(problem) else "cpu",
            )
            pool = Pool(ray, hiring, self.count, self.timeout_s, self.retries)
            try:
                yield pool
            finally:
                pool.close()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Stay connected while the block lasts, so that searches in it share what they need.

        Budgets of problems that are made in it are measured on ``measure_on``, also those of the
        unpruned network, to which costs are relative.

        Raises:
            ClusterError: there is no such cluster, or no machine has the resource.
            MissingLibraryError: Ray is not installed.
        """
        with self.connected() as ray:
            if self.measure_on is None:
                yield
                return
            measurer = Measurer(
                ray, self.measure_on, self.timeout_s, self.retries, self.runtime_env, self.report
            )
            try:
                with placing(measurer.placed, measurer.run):
                    yield
            finally:
                measurer.close()

    def _gpus(self, problem: PruningProblem) -> float:
        """Of each worker; where the problem is on one, they have one each."""
        return self.gpus_per_worker or float(problem.device.type == "cuda")

    def _needs(self, problem: PruningProblem) -> dict[str, Any]:
        needs: dict[str, Any] = {
            "num_cpus": self.cpus_per_worker,
            "num_gpus": self._gpus(problem),
            "max_restarts": 0,  # a new one is made where there is room for it
            "scheduling_strategy": "SPREAD",
        }
        if self.runtime_env is not None:
            needs["runtime_env"] = dict(self.runtime_env)
        return needs


class RemoteEvaluator(Evaluator):
    """An evaluator whose networks workers judge; what was judged before is remembered here.

    Args:
        evaluator: of the problem, with which it shares its memory.
        pool: the workers.
        problem: whose networks they judge.
    """

    def __init__(self, evaluator: Evaluator, pool: Pool, problem: PruningProblem) -> None:
        vars(self).update(vars(evaluator))
        self._plain, self._pool = evaluator, pool
        budgets = problem.budgets
        self._counts = all(budget.counted is not None for budget in budgets)
        self._is_elsewhere = any(isinstance(budget, BudgetElsewhere) for budget in budgets)
        self._is_fixed, self._device = is_fixed(problem.recovery), problem.device

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is the plain one."""
        return copy.copy, (self._plain,)

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteEvaluator:
        """Itself: Gymnasium copies what an environment was made of, and workers cannot be."""
        return self

    def judge(self, masks: Masks, seed: int, steps: int, bar: Bar | None = None) -> Judgement:
        """Have a network judged; it is built here only where somebody asks for it."""
        own = tuple(mask.copy() for mask in masks)
        question = Question(own, seed, steps, is_measured=not self._is_elsewhere)
        build: Callable[[], Any] = partial(self._recovered, own, seed, steps)
        # a trained network, which budgets elsewhere need first, is not there before it is judged
        is_late = self._is_elsewhere and not self._is_fixed
        if bar is None or self.validation.race is None or is_late:
            found = self._pool.judge(question)
        else:
            values = self._values_first(question, build)
            raced = replace(question, least=bar(own, values), is_measured=False)
            found = replace(self._pool.judge(raced), values=values)
        if found.network is not None:
            build = partial(_network_of, found.network, self._device)
        values = self.values(own, build()) if found.values is None else found.values
        return Judgement(found.accuracy, values, found.share, build)

    def _values_first(self, question: Question, build: Callable[[], Any]) -> NDArray[np.float64]:
        """The budgets of a network that is not judged yet: they say whom it races against."""
        if self._counts:
            return self._cost_model.values(question.masks)
        if self._is_elsewhere:
            return self.values(question.masks, build())
        found = self._pool.judge(replace(question, is_judged=False)).values
        return self.values(question.masks, build()) if found is None else found


def _answered(answer: Future[Any]) -> bool:
    """Whether there is an answer; raises what is wrong with the whole cluster."""
    error = answer.exception()
    if isinstance(error, ClusterError) and not isinstance(error, WorkerError):
        raise error
    return error is None


def _network_of(sent: bytes, device: torch.device) -> nn.Module:
    """A trained network that a worker sent, on the device of the problem here."""
    found: nn.Module = pickle.loads(sent)
    return found.to(device)


def workers_of(
    problem: PruningProblem, cluster: RayWorkers | None
) -> AbstractContextManager[Workers]:
    """Threads in which networks are judged: by workers of a cluster, or here.

    Args:
        problem: of the networks.
        cluster: None = here. Black-box budgets are then called one at a time: they may count,
            measure time, or use a device.
    """
    if cluster is not None:
        return cluster.judging(problem)
    black_box = any(budget.counted is None for budget in problem.budgets)
    return Workers(1 if black_box else None, problem.device)


def as_workers(workers: int | RayWorkers | None) -> RayWorkers | None:
    """Workers from what `prune_gym.search` takes: so many, or where and how they are."""
    if workers is None or isinstance(workers, RayWorkers):
        return workers
    if isinstance(workers, bool) or not isinstance(workers, int):
        raise InvalidTypeError(f"workers={workers!r}: expected a number, RayWorkers(...) or None.")
    return RayWorkers(whole_number("workers", workers, 1, MOST_WORKERS))
