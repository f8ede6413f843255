"""Whatever a budget raises or returns, the error names it in one line, with the place."""

from __future__ import annotations

import asyncio
import re
import threading
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import tiny
import torch

import prune_gym
from prune_gym import Budget, BudgetError
from prune_gym.budgets import parse_limit


class Ending(BaseException):
    """Like what test runners end with."""


class Silent(Exception):
    def __str__(self):
        raise ValueError


class Odd(float):
    def __float__(self):
        raise ZeroDivisionError


def call(measure, **settings):
    return Budget("mine", measure, **settings)(tiny.build("vgg"), tiny.images_of(1))


def raising(error):
    def measure(network):
        raise error

    return measure


@pytest.mark.parametrize("timeout_s", [None, 30.0])
@pytest.mark.parametrize(
    "error",
    [
        SystemExit(0),
        SystemExit("bye"),
        GeneratorExit(),
        asyncio.CancelledError(),
        Ending("ends\nin two lines"),
        StopIteration(3),
        MemoryError(),
        RecursionError("deep"),
        Silent(),
        OSError("x" * 5000),
    ],
    ids=repr,
)
def test_whatever_it_raises_is_one_line(error, timeout_s):
    place = re.escape(f"({__file__}:{raising.__code__.co_firstlineno + 2})")
    kind = type(error).__name__
    with pytest.raises(BudgetError, match=rf"^budget 'mine' raised {kind}.* {place}$") as raised:
        call(raising(error), timeout_s=timeout_s)
    assert raised.value.__cause__ is error
    assert len(str(raised.value)) < 600


def test_the_place_is_in_the_users_code_even_where_a_library_raised():
    def measure(network):
        return torch.ones(2) @ torch.ones(3)

    line = measure.__code__.co_firstlineno + 1
    with pytest.raises(BudgetError, match=rf"raised RuntimeError: .*{re.escape(__file__)}:{line}"):
        call(measure)
    with pytest.raises(BudgetError, match=r"raised TypeError: object of type .* has no len\(\)$"):
        call(len)


def test_ctrl_c_is_no_error_of_a_budget_but_one_that_raises_it_is():
    with pytest.raises(KeyboardInterrupt):  # in the main thread, where Ctrl-C arrives
        call(raising(KeyboardInterrupt()))
    found = []

    def judge():
        try:
            call(raising(KeyboardInterrupt()))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert isinstance(found[0], BudgetError)
    assert "budget 'mine' raised KeyboardInterrupt" in str(found[0])


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.array([2]), 2.0),
        (torch.tensor(2), 2.0),
        (torch.ones(1, 1, requires_grad=True), 1.0),
        (Decimal("0.25"), 0.25),
        (Fraction(1, 4), 0.25),
    ],
    ids=repr,
)
def test_numbers_of_other_libraries_are_numbers(value, number):
    assert call(lambda network: value) == number


@pytest.mark.parametrize(
    "value",
    [
        10**400,
        -(10**400),
        10**5000,
        Fraction(10**400),
        Decimal("1e400"),
        Decimal("NaN"),
        Decimal("sNaN"),
        1j,
        np.complex64(1),
        np.bool_(True),
        "3",
        b"3",
        np.nan,
        np.array([1.0, 2.0]),
        np.array([]),
        np.array(["3"]),
        torch.ones(1, device="meta"),
        torch.ones(1, dtype=torch.complex64),
        [1.0],
        Odd(1.0),
        object,
        -1e-300,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_cost_names_the_budget_in_one_line(value):
    with pytest.raises(BudgetError, match=r"^budget 'mine' returned [^\n]{1,250}$"):
        call(lambda network: value)


def test_another_type_at_the_second_call():
    values = iter([1.0, "1.0"])
    budget, network = Budget("mine", lambda network: next(values)), tiny.build("vgg")
    assert budget(network, tiny.images_of(1)) == 1.0
    with pytest.raises(BudgetError, match=r"budget 'mine' returned '1.0' \(str\); expected a num"):
        budget(network, tiny.images_of(1))


@pytest.mark.parametrize(
    ("counted", "words"),
    [
        (lambda n, e: 1 / 0, r"budget 'mine' raised ZeroDivisionError: division by zero \("),
        (lambda n, e: exit(0), "budget 'mine' raised SystemExit: 0"),
        (lambda n, e: [1.0], r"budget 'mine': counted gave \[1.0\] \(list\); expected a mapping"),
        (lambda n, e: {"gone": 1.0}, "budget 'mine': counted names 'gone' .* no tensor of that"),
        (lambda n, e: {"classifier.bias": "1"}, r"budget 'mine' returned '1' \(str\); expected a"),
        (lambda n, e: {"classifier.bias": np.nan}, "budget 'mine' returned nan; expected a finite"),
    ],
)
def test_what_is_counted_is_looked_at_as_well(counted, words):
    budget = Budget("mine", counted=counted)
    with pytest.raises(BudgetError, match=words):
        budget(tiny.build("vgg"), tiny.images_of(1))
    with pytest.raises(BudgetError, match=words):
        prune_gym.make_problem(budgets={budget: 0.5})


def test_a_cost_that_no_number_can_hold():
    values = iter([5e-324, 1e308])
    budget, network = Budget("mine", lambda network: next(values)), tiny.build("vgg")
    unpruned_value = budget(network, tiny.images_of(1))
    with pytest.raises(BudgetError, match=r"budget 'mine' is 1e\+308, and .*: their ratio, the c"):
        budget.relative(network, network, tiny.images_of(1), unpruned_value)


@pytest.mark.parametrize(
    "limit",
    ["10**400", "1e400", "1e999%", "1e-400%", "0x10", "1" * 5000, 10**400, 10**5000, "²%", 1j],
    ids=lambda limit: str(limit)[:9] if isinstance(limit, str) else type(limit).__name__,
)
def test_limits_that_are_none_name_the_budget(limit):
    with pytest.raises(ValueError, match=r"^budgets: [^\n]{0,20}mine[^\n]{1,250}$"):
        parse_limit(limit, Budget("mine", lambda network: 1.0))


def test_digits_of_any_script_are_digits():
    assert parse_limit("١٠%", Budget("mine", lambda network: 1.0)) == 0.1


def test_a_recovery_and_a_criterion_are_named_as_well(tiny_problem):
    def repair(network, train, *, generator, steps):
        raise SystemExit(0)

    def score(evidence):
        raise GeneratorExit

    problem = prune_gym.make_problem(recovery=repair, evaluation_samples=8)
    masks = problem.masks_of([1] * len(problem.groups))
    with pytest.raises(ValueError, match=r"recovery 'repair' raised SystemExit: 0 \(.*give.py:\d"):
        problem.evaluate(masks)
    with pytest.raises(
        prune_gym.CriterionError, match=r"criterion 'score' raised GeneratorExit \("
    ):
        prune_gym.make_problem(criterion=score)
