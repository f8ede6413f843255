"""The workers of one search: which network goes to which of them, and what happens when one dies.

A thread per worker takes networks from one queue, several in a call where they are quick, and waits
for the worker. A network that a worker died over, or was too long at, goes back to the front of the
queue; each has one result, which is delivered once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from agents.ray_errors import full_store, words_of
from prune_gym.cluster.hiring import Hiring, NoPlaceError
from prune_gym.cluster.shipping import Judged, Question, Refused, store_is_full
from prune_gym.errors import ClusterError, OutOfMemoryError, WorkerError

CALL_S = 0.1  # of judging in a call: a thousandth of a second on the way is nothing beside it
MOST_IN_A_CALL = 64
STARTS = 3  # of a worker, one after another, that may fail


@dataclass(eq=False)
class _Job:
    """A question for a worker.

    Attributes:
        question: e.g. a `Question`.
        future: where the result goes.
        faults: what happened to workers over it.
    """

    question: Any
    future: Future[Any] = field(default_factory=Future)
    faults: list[str] = field(default_factory=list)


class _Queue:
    """Jobs that wait for a worker; those that were given back come first."""

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed: BaseException | None = None

    def put(self, job: _Job) -> None:
        with self._changed:
            if self._closed is not None:
                raise self._closed
            self._jobs.append(job)
            self._changed.notify()

    def give_back(self, job: _Job) -> None:
        with self._changed:
            if self._closed is not None:
                job.future.set_exception(self._closed)
                return
            self._jobs.appendleft(job)
            self._changed.notify()

    def take(self, share: Callable[[int], int]) -> list[_Job]:
        """The next jobs, as many of those that wait as ``share`` says; none = it was closed.

        One that a worker died over goes alone: the next fault must be its own.
        """
        with self._changed:
            while not self._jobs and self._closed is None:
                self._changed.wait()
            if self._closed is not None:
                return []
            taken, most = [self._jobs.popleft()], share(len(self._jobs) + 1)
            while (
                self._jobs
                and len(taken) < most
                and not taken[0].faults
                and not self._jobs[0].faults
            ):
                taken.append(self._jobs.popleft())
            return taken

    def close(self, error: BaseException) -> None:
        """End it; what waits, and whatever comes, gets the error."""
        with self._changed:
            self._closed = self._closed or error
            for job in self._jobs:
                job.future.set_exception(error)
            self._jobs.clear()
            self._changed.notify_all()


class Pool:
    """Workers that judge the networks of one problem.

    Args:
        ray: the module, connected.
        hiring: makes workers.
        n: how many.
        timeout_s: seconds that a network may take; a worker that is at one for longer is ended.
        retries: how often a network is judged anew after a fault, before it is given up.
    """

    def __init__(self, ray: Any, hiring: Hiring, n: int, timeout_s: float, retries: int) -> None:
        self._ray, self._hiring, self._n = ray, hiring, n
        self._timeout_s, self._retries = timeout_s, retries
        self._queue = _Queue()
        self._seconds = 0.0  # that a network takes, the latest ones counting most
        self._closed = self._came_up = False
        self._without_place = 0  # threads that ended, as no machine had a place for their worker
        self._counting = threading.Lock()
        self.faults: list[str] = []
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(n):
                thread = threading.Thread(target=self._serve, daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:  # such as of a process with too many threads
            self.close()
            raise

    def judge(self, question: Question) -> Judged:
        """Judge a network; waits for it.

        Raises:
            WorkerError: no worker could.
            ClusterError: there are no workers.
        """
        found: Judged = self.ask(question).result()
        return found

    def ask(self, question: Any) -> Future[Any]:
        """Ask what has ``masks``, and ``answered`` of a problem, which gives what has ``seconds``.

        Raises:
            ClusterError: there are no workers.
        """
        job = _Job(question)
        self._queue.put(job)
        return job.future

    def close(self) -> None:
        """End the workers, whatever they are at; who waits for one gets a ClusterError."""
        self._closed = True
        self._queue.close(ClusterError("the workers were ended."))
        self._hiring.dismiss_all()
        for thread in self._threads:
            thread.join(timeout=10.0)

    # -- a thread per worker -------------------------------------------------------------------

    def _serve(self) -> None:
        worker: Any = None
        try:
            while not self._closed:
                worker = worker or self._hired()
                self._came_up = True
                jobs = self._queue.take(self._share)
                if not jobs:
                    return
                if not self._done(worker, jobs):
                    self._hiring.dismiss(worker)
                    worker = None
        except NoPlaceError as error:  # the others go on, where there are any
            with self._counting:
                self._without_place += 1
                is_last = self._without_place == self._n
            if is_last or not self._came_up:
                self._queue.close(error)
        except BaseException as error:  # no worker comes up: whoever waits is told
            self._queue.close(error if isinstance(error, ClusterError) else _unexpected(error))

    def _hired(self) -> Any:
        """A worker that is ready; tried anew where it dies before."""
        for trial in range(STARTS):
            try:
                return self._hiring.hire()
            except full_store(self._ray) as error:
                raise store_is_full(words_of(error)) from error
            except self._ray.exceptions.RayError as error:
                if trial + 1 == STARTS or self._closed:
                    raise ClusterError(
                        f"no worker came up in {STARTS} trials: {words_of(error)}"
                    ) from error
                time.sleep(trial)
        raise ClusterError("the workers were ended.")

    def _share(self, waiting: int) -> int:
        """How many of the waiting jobs one worker takes; one, as long as nothing is known."""
        quick = 1 if self._seconds == 0.0 else int(CALL_S / self._seconds)
        return max(1, min(quick, MOST_IN_A_CALL, waiting // self._n))

    def _done(self, worker: Any, jobs: Sequence[_Job]) -> bool:
        """Have jobs done, or give them back; whether the worker can go on."""
        ray = self._ray
        questions = [job.question for job in jobs]
        fault = ""
        try:
            answer = worker.answers.remote(questions)
            found = ray.get(answer, timeout=self._timeout_s * len(jobs))
        except full_store(ray) as error:
            for job in jobs:
                job.future.set_exception(store_is_full(words_of(error)))
            return True
        except ray.exceptions.RayTaskError as error:
            for job in jobs:
                job.future.set_exception(WorkerError(f"a worker failed: {words_of(error)}"))
            return True
        except ray.exceptions.GetTimeoutError:
            fault = f"it took longer than {self._timeout_s:g} s"
        except ray.exceptions.RayError as error:
            fault = words_of(error)
        except BaseException as error:
            for job in jobs:
                job.future.set_exception(error)
            raise
        if fault:
            for job in reversed(jobs):
                self._fault(job, fault)
            return False
        for job, result in zip(jobs, found, strict=True):
            self._deliver(job, result)
        return True

    def _deliver(self, job: _Job, result: Any) -> None:
        if not isinstance(result, Refused):
            self._seconds = 0.8 * self._seconds + 0.2 * result.seconds
            job.future.set_result(result)
        elif isinstance(result.error, OutOfMemoryError):
            self._fault(job, str(result.error), result.error)
        else:
            job.future.set_exception(result.error)

    def _fault(self, job: _Job, words: str, error: BaseException | None = None) -> None:
        """Note what happened; the job goes back, unless it has happened too often."""
        if self._closed:
            job.future.set_exception(ClusterError("the workers were ended."))
            return
        job.faults.append(words)
        self.faults.append(words)
        if len(job.faults) <= self._retries:
            self._queue.give_back(job)
            return
        kept = [int(mask.sum()) for mask in job.question.masks]
        job.future.set_exception(
            error
            or WorkerError(
                f"the network that keeps {kept} filters could not be judged: {len(job.faults)} "
                f"workers failed over it, the last one: {words}. Does it hang, or need more "
                "memory than a worker has? Judge it here: problem.evaluate(masks)."
            )
        )


def _unexpected(error: BaseException) -> ClusterError:
    found = ClusterError(f"the workers failed: {type(error).__name__}: {words_of(error)}")
    found.__cause__ = error
    return found
