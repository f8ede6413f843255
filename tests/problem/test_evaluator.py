"""The evaluator of a problem: made once, at first use, by whichever thread comes first."""

from __future__ import annotations

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import tiny

from prune_gym.problem import problem as module
from prune_gym.problem.evaluator import Evaluator


def test_threads_share_one(monkeypatch):
    made = []

    class Counted(Evaluator):
        def __init__(self, problem) -> None:
            made.append(problem)
            super().__init__(problem)

    monkeypatch.setattr(module, "Evaluator", Counted)
    problem = tiny.make_tiny()
    assert made == []
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: problem.evaluator, range(8)))
    assert made == [problem]
    assert {id(one) for one in found} == {id(problem.evaluator)}


def test_another_problem_has_another():
    problem = tiny.make_tiny(batch_size=8)
    other = replace(problem, batch_size=5)
    assert problem.evaluator.validation.batch_size == 8
    assert other.evaluator.validation.batch_size == 5
    twin = copy.deepcopy(problem)
    assert twin.evaluator is not problem.evaluator
    assert twin.evaluator.memory is not problem.evaluator.memory


@pytest.mark.parametrize("structure", ["filter", "weight"])
def test_a_problem_goes_without_waiting_for_the_collector(structure):
    problem = tiny.make_tiny(structure=structure)
    problem.evaluate(tiny.random_masks(problem, 0))
    gone = weakref.ref(problem)
    gc.disable()
    try:
        del problem
        assert gone() is None
    finally:
        gc.enable()
