"""Limits as people write them: fractions, amounts, units; and what they come to."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import tiny
from hypothesis import example, given
from hypothesis import strategies as st

from prune_gym import BUDGETS, Budget, make_problem
from prune_gym.budgets import Amount, amount, parse_limit, relative
from prune_gym.budgets.limits import UNITS, is_limit

PARAMS, LATENCY, SIZE, ENERGY = (
    BUDGETS.get(name)() for name in ("params", "latency_ms", "size_bytes", "energy_uj")
)
JOULES = Budget("joules", lambda network: 1.0, unit="J")
PLAIN = Budget("plain", lambda network: 1.0)
FRAMES = Budget("frames", lambda network: 1.0, unit="frames")


@pytest.mark.parametrize(
    ("text", "budget", "value"),
    [
        ("58000", PARAMS, 58000.0),
        ("10M", PARAMS, 1e7),
        ("1.5 K", PARAMS, 1500.0),
        ("12 params", PARAMS, 12.0),
        ("2ms", LATENCY, 2.0),
        ("250us", LATENCY, 0.25),
        ("250 µs", LATENCY, 0.25),
        ("250\u03bcs", LATENCY, 0.25),
        ("0.5s", LATENCY, 500.0),
        (".5ms", LATENCY, 0.5),
        ("3", LATENCY, 3.0),
        ("500KB", SIZE, 500_000.0),
        ("500kb", SIZE, 500_000.0),
        ("2KiB", SIZE, 2048.0),
        ("1.5GB", SIZE, 1.5e9),
        ("0.3MiB", SIZE, 0.3 * 2**20),
        ("70000 bytes", SIZE, 70_000.0),
        ("3uJ", ENERGY, 3.0),
        ("3mJ", ENERGY, 3000.0),
        ("2e-3 mJ", ENERGY, 2.0),
        ("3mJ", JOULES, 0.003),
        ("12.5", PLAIN, 12.5),
        ("2K", PLAIN, 2000.0),
        ("30 frames", FRAMES, 30.0),
        ("0.5 frames", FRAMES, 0.5),
    ],
)
def test_amounts(text, budget, value):
    assert parse_limit(text, budget) == Amount(value, text)
    assert is_limit(text)


@pytest.mark.parametrize(
    ("given_limit", "fraction"), [("20%", 0.2), ("0.3", 0.3), (0.25, 0.25), ("1", 1.0), (1, 1.0)]
)
def test_fractions(given_limit, fraction):
    assert parse_limit(given_limit, LATENCY) == fraction


@pytest.mark.parametrize(
    ("text", "budget", "message"),
    [
        ("500KB", LATENCY, "latency_ms is in ms; '500KB' is not a time. Units that fit: ns, us, "),
        ("2ms", SIZE, "size_bytes is in bytes; '2ms' is not a number of bytes. Units that fit: B,"),
        ("2KB", PARAMS, "params is in parameters; '2KB' is not a number of parameters. Units that"),
        ("3 MJ", ENERGY, "'3 MJ' is not an energy. Units that fit: pJ, nJ, uJ, µJ, mJ, J."),
        ("3ms", PLAIN, "plain has no unit, so '3ms' cannot be compared with it; write the number"),
        ("3 ms", FRAMES, "frames is in frames; '3 ms' is not a number of frames. Units that fit:"),
        ("120%", PARAMS, "the limit of 'params' is 1.2; it must be a number in (0, 1], the frac"),
        ("-2ms", LATENCY, "the limit of 'latency_ms' is '-2ms'; it must be .* such as '2ms', or"),
        ("0ms", LATENCY, "the limit of 'latency_ms' is '0ms'"),
        ("1e999 s", LATENCY, "the limit of 'latency_ms' is '1e999 s'"),
        ("fast", LATENCY, "the limit of 'latency_ms' is 'fast'; it must be a number in (0, 1]"),
    ],
)
def test_limits_that_do_not_fit(text, budget, message):
    pattern = re.escape(message).replace(re.escape(".*"), ".*")
    with pytest.raises(ValueError, match=pattern):
        parse_limit(text, budget)


def test_every_kind_of_unit_has_a_smallest_one():
    for units in UNITS.values():
        assert min(units.values()) == 1


@given(st.integers(1, 2**50), st.integers(1, 2**50), st.integers(-2, 2))
def test_whole_numbers_meet_an_amount_exactly(one, other, step):
    limit, dense = sorted((float(one), float(other)))
    fraction = relative(Amount(limit, ""), dense, PARAMS)
    assert 0.0 < fraction <= 1.0
    value = max(0.0, limit + step)
    assert (value / dense <= fraction) == (value <= limit)


@example(0.1, 5.3, 1)  # the quotient of the next larger value is the same
@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.integers(0, 3))
def test_what_is_within_an_amount_is_so_to_the_last_bit(one, other, steps):
    limit, dense = sorted((one, other))
    fraction = relative(Amount(limit, ""), dense, LATENCY)
    value = limit
    for _ in range(steps):
        value = math.nextafter(value, math.inf)
    assert value / dense > fraction or value <= limit


def test_an_amount_that_holds_already():
    with pytest.raises(
        ValueError,
        match=r"the limit of 'params' is 1M, and the unpruned network already meets it: "
        r"765 parameters. Leave this budget out, or choose a smaller limit",
    ):
        tiny.make_tiny(budgets={"params": "1M"})
    whole = tiny.make_tiny(budgets={"params": "765"})
    assert whole.limits == (1.0,)


def test_the_network_meets_the_amount_exactly():
    """Every number of parameters on the way: within the amount or not, without tolerance."""
    problem = make_problem(budgets={"params": "58000"})
    fitting, seen = [], []
    for ratio in np.linspace(0.6, 0.75, 40):
        masks = problem.masks_of(problem.kept_counts(np.full(8, ratio)))
        outcome = problem.evaluate(masks)
        seen.append(outcome.values["params"])
        assert outcome.feasible == (outcome.values["params"] <= 58000)
        fitting.append(outcome.feasible)
    assert {True, False} <= set(fitting)
    exact = int(seen[7])
    at = make_problem(budgets={"params": f"{exact}"})
    below = make_problem(budgets={"params": f"{exact - 1} params"})
    masks = at.masks_of(at.kept_counts(np.full(8, np.linspace(0.6, 0.75, 40)[7])))
    assert at.evaluate(masks).feasible
    assert not below.evaluate(masks).feasible


def test_floors_are_told_in_the_unit():
    with pytest.raises(
        ValueError,
        match=r"budget 'params': limit 0.0130719 is below the floor 0.0\d+ \(10 parameters; floor "
        r"\d\d parameters\); budget 'macs': limit 0.01 is below the floor 0.0\d+ \(.* MACs; floor "
        r"\d+ MACs\) \(the smallest network that can be reached\)",
    ):
        tiny.make_tiny(budgets={"params": "10", "macs": 0.01, "size_bytes": "3KB"})


def test_amounts_in_words():
    assert amount(58_000.0, "parameters") == "58,000 parameters"
    assert amount(0.123456, "ms") == "0.1235 ms"
    assert amount(3.0, "") == "3"
