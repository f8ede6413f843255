"""Threads that judge networks side by side."""

from __future__ import annotations

import threading

import pytest
import torch

from prune_gym.errors import OutOfMemoryError
from prune_gym.utils.threads import Workers


def test_one_thread_begins_nothing_before_the_last_result_was_taken():
    begun: list[int] = []
    with Workers(1) as workers:
        for number in workers.map(lambda n: begun.append(n) or n, [0, 1, 2]):
            assert begun == list(range(number + 1))
    assert begun == [0, 1, 2]


@pytest.mark.parametrize("n", [1, 3])
def test_results_come_in_order_and_errors_are_raised(n):
    with Workers(n) as workers:
        assert list(workers.map(lambda n: n * n, [3, 1, 2])) == [9, 1, 4]
        results = workers.map(lambda n: 1 / n, [1, 0, 2])
        assert next(results) == 1.0
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_each_thread_has_a_stream_of_its_own(monkeypatch):
    given: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "set_stream", given.append)
    barrier = threading.Barrier(3)
    with Workers(3, torch.device("cuda")) as workers:
        list(workers.map(lambda _: barrier.wait(20), [0, 1, 2]))
    assert len({id(stream) for stream in given}) == 3


def test_a_full_gpu_is_told_before_work_is_begun(monkeypatch):
    def full(device):
        raise torch.OutOfMemoryError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Stream", full)
    with pytest.raises(OutOfMemoryError, match="cuda is full; end other programs there"):
        Workers(2, torch.device("cuda"))
