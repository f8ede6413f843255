"""Threads that judge networks side by side."""

from __future__ import annotations

import pytest

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
