"""The pool alone, with workers that hold no problem, and so are up in a moment."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

import pytest
from kills import KILLS, RAY_MARKS, killing

from prune_gym.cluster.hiring import Hiring
from prune_gym.cluster.pool import Pool
from prune_gym.cluster.workers import RayWorkers
from prune_gym.errors import WorkerError

pytestmark = RAY_MARKS


@pytest.fixture
def ray(cluster):
    with RayWorkers(1).session():
        import ray

        yield ray


class Unladen(Hiring):
    """Makes workers that import nothing but Ray."""

    def _placed(self, actor):
        self._ray.get(actor.__ray_ready__.remote())
        return {}

    def _check(self, found):
        pass


def make_kinds(folder):
    """Classes of questions and answers that travel by value."""

    @dataclass(frozen=True)
    class Answer:
        number: int
        seconds: float

    @dataclass(frozen=True)
    class Question:
        number: int
        seconds: float
        masks: tuple = ()

        def answered(self, problem):
            began = time.perf_counter()
            open(os.path.join(folder, str(os.getpid())), "w").close()
            time.sleep(self.seconds)
            return Answer(self.number, time.perf_counter() - began)

    return Question


def pool_of(ray, n, timeout_s=600.0, retries=KILLS):
    hiring = Unladen(ray, {"num_cpus": 0.1, "max_restarts": 0})
    return Pool(ray, hiring, n, timeout_s, retries)


def test_twenty_killed_workers_lose_nothing(ray, tmp_path):
    ask, killed, ended = make_kinds(str(tmp_path)), [], threading.Event()
    thread = threading.Thread(target=killing, args=(tmp_path, killed, ended))
    thread.start()
    pool, answers = pool_of(ray, 2), []
    try:
        while len(killed) < KILLS or len(answers) < 60:
            answers.append(pool.ask(ask(len(answers), 0.1)))
            if len(answers) % 8 == 0:
                answers[-8].result()
        assert [one.result().number for one in answers] == list(range(len(answers)))
    finally:
        ended.set()
        thread.join()
        pool.close()
    assert len(pool.faults) >= KILLS / 2  # some were killed between two questions


def test_a_question_that_hangs_is_named_and_the_others_answered(ray, tmp_path):
    ask, pool = make_kinds(str(tmp_path)), pool_of(ray, 2, timeout_s=1.0, retries=1)
    try:
        hanging, others = pool.ask(ask(0, 3600)), [pool.ask(ask(n, 0.01)) for n in range(1, 20)]
        assert [one.result().number for one in others] == list(range(1, 20))
        with pytest.raises(WorkerError, match=r"2 workers failed over it, .* longer than 1 s"):
            hanging.result()
    finally:
        pool.close()


def test_sixteen_workers_share_the_work(ray, tmp_path):
    ask, pool = make_kinds(str(tmp_path)), pool_of(ray, 16)
    try:
        deadline = time.monotonic() + 120.0  # they need a while to start
        while len(list(tmp_path.iterdir())) < 16 and time.monotonic() < deadline:
            [one.result() for one in [pool.ask(ask(n, 0.2)) for n in range(32)]]
        assert len(list(tmp_path.iterdir())) == 16
    finally:
        pool.close()
