import math
import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import (
    AdamMultiplier,
    BarrierMultiplier,
    FixedMultiplier,
    GradientMultiplier,
    Multiplier,
    PenaltyMultiplier,
    PIDMultiplier,
    VectorMultiplier,
)
from agents.multipliers.rules import check_multiplier

MULTIPLIERS = [
    GradientMultiplier(initial=0.5),
    PIDMultiplier(initial=0.5, delay=3),
    AdamMultiplier(initial=0.5),
    BarrierMultiplier(initial=0.5),
    PenaltyMultiplier(kappa=0.5),
    FixedMultiplier(0.5),
]
COPIES = {"pickled": lambda thing: pickle.loads(pickle.dumps(thing)), "copied": deepcopy}


@pytest.mark.parametrize("multiplier", MULTIPLIERS, ids=lambda m: type(m).__name__)
class TestProtocol:
    def test_is_a_multiplier(self, multiplier):
        assert isinstance(multiplier, Multiplier)
        assert check_multiplier(multiplier) is multiplier

    def test_starts_at_its_initial_value_and_is_never_negative(self, multiplier):
        fresh = deepcopy(multiplier)
        start = 0.0 if isinstance(multiplier, PenaltyMultiplier) else 0.5
        assert fresh.value == pytest.approx(start, rel=1e-15)
        for violation in np.random.default_rng(0).normal(-0.2, 1.0, 50):
            assert fresh.update(violation) == fresh.value >= 0.0

    @pytest.mark.parametrize("how", COPIES)
    def test_copies_have_its_state_and_go_their_own_way(self, multiplier, how):
        first = deepcopy(multiplier)
        for violation in (0.3, 0.1, -0.2):
            first.update(violation)
        second = COPIES[how](first)
        assert second == first
        before = second.value
        values = [first.update(v) for v in (0.2, -0.1)]
        assert second.value == before
        assert [second.update(v) for v in (0.2, -0.1)] == values

    @pytest.mark.parametrize("violation", [math.nan, math.inf])
    def test_refuses_what_is_no_violation(self, multiplier, violation):
        before = deepcopy(multiplier)
        with pytest.raises(ValueError, match=r"violation is (nan|inf).*Skip the update"):
            multiplier.update(violation)
        assert multiplier == before


gains = st.floats(0.01, 100.0)
violation_lists = st.lists(st.floats(-1e3, 1e3), max_size=30)


@settings(deadline=None)
@given(violation_lists, gains, gains, st.integers(1, 4))
def test_value_stays_within_its_bounds(violations, gain, upper_bound, delay):
    bounds = {"initial": upper_bound / 2.0, "upper_bound": upper_bound}
    rules = (
        GradientMultiplier(learning_rate=gain, **bounds),
        PIDMultiplier(kp=gain, ki=gain, kd=gain, delay=delay, **bounds),
        AdamMultiplier(learning_rate=gain, **bounds),
        BarrierMultiplier(t=gain, **bounds),
    )
    for violation in violations:
        for rule in rules:
            assert 0.0 <= rule.update(violation) <= upper_bound


def test_gradient_step_is_proportional_and_projected():
    multiplier = GradientMultiplier(learning_rate=2.0, initial=1.0, upper_bound=1.5)
    assert multiplier.update(0.1) == pytest.approx(1.2)
    assert multiplier.update(10.0) == 1.5
    assert multiplier.update(-10.0) == 0.0
    assert multiplier.update(0.25) == 0.5


# -- PID -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(violation_lists, gains, st.floats(0.0, 0.99), st.integers(1, 5), st.booleans())
def test_pid_with_integral_only_is_the_gradient_rule(violations, gain, ema, delay, bounded):
    shared = {"initial": 0.7, "upper_bound": 1.5 if bounded else math.inf}
    pid = PIDMultiplier(kp=0.0, ki=gain, kd=0.0, ema=ema, delay=delay, **shared)
    gradient = GradientMultiplier(learning_rate=gain, **shared)
    for violation in violations:
        assert pid.update(violation) == gradient.update(violation)


def test_proportional_and_derivative_terms():
    pid = PIDMultiplier(kp=2.0, ki=0.0, kd=3.0, initial=1.0, ema=0.0, delay=1)
    assert pid.update(0.5) == pytest.approx(1.0 + 2.0 * 0.5)  # no derivative kick
    assert pid.update(0.7) == pytest.approx(1.0 + 2.0 * 0.7 + 3.0 * 0.2)
    assert pid.update(0.1) == pytest.approx(1.0 + 2.0 * 0.1)  # falling: D is positive part


def test_derivative_looks_back_over_the_delay():
    pid = PIDMultiplier(kp=0.0, ki=0.0, kd=1.0, initial=0.0, ema=0.0, delay=2)
    assert [pid.update(v) for v in (0.0, 1.0, 3.0, 4.0)] == [0.0, 1.0, 3.0, 3.0]


def test_smoothing_starts_at_the_first_violation():
    pid = PIDMultiplier(kp=1.0, ki=0.0, kd=0.0, initial=0.0, ema=0.75)
    assert pid.update(1.0) == 1.0
    assert pid.update(2.0) == pytest.approx(0.75 * 1.0 + 0.25 * 2.0)


def test_the_derivative_has_a_filter_of_its_own():
    pid = PIDMultiplier(kp=1.0, ki=0.0, kd=1.0, initial=0.0, ema=0.0, derivative_ema=0.75)
    assert pid.update(1.0) == 1.0
    assert pid.update(2.0) == pytest.approx(2.0 + 0.25)  # P at once, D by a quarter
    same = [PIDMultiplier(ema=0.3, derivative_ema=past) for past in (None, 0.3)]
    for violation in (0.3, -0.2, 0.5):
        assert len({rule.update(violation) for rule in same}) == 1


def test_integral_does_not_wind_up():
    pid = PIDMultiplier(kp=0.0, ki=1.0, kd=0.0, initial=0.0, upper_bound=2.0)
    for _ in range(100):
        pid.update(-1.0)
    assert pid.update(0.5) == 0.5
    for _ in range(100):
        pid.update(1.0)
    assert pid.update(-0.5) == 1.5


# -- Adam ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=25),
    st.floats(0.01, 0.5),
    st.floats(0.1, 5.0),
    st.tuples(st.floats(0.0, 0.95), st.floats(0.5, 0.999)),
)
def test_adam_is_torch_s_with_the_violation_as_slope(violations, learning_rate, initial, betas):
    """As in Safety Starter Agents, whose loss is ``-x * violation`` and the value softplus(x)."""
    far = {"lower_bound": 1e-9, "initial": initial}
    rule = AdamMultiplier(learning_rate=learning_rate, betas=betas, **far)
    start = th.tensor(initial, dtype=th.float64).expm1().log()
    x = th.nn.Parameter(start)
    optimiser = th.optim.Adam([x], lr=learning_rate, betas=betas, maximize=True)
    for violation in violations:
        optimiser.zero_grad()
        (x * violation).backward()
        optimiser.step()
        expected = th.nn.functional.softplus(x).item()
        assert rule.update(violation) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None)
@given(st.floats(1e-3, 1e4))
def test_adam_starts_where_it_is_told_to(initial):
    assert AdamMultiplier(initial=initial).value == pytest.approx(initial, rel=1e-9)


def test_adam_does_not_wind_up_at_its_bound():
    one, other = (AdamMultiplier(learning_rate=0.5, initial=1.9, upper_bound=2.0) for _ in "ab")
    assert one.update(1.0) == other.update(1.0) == 2.0
    for _ in range(100):
        one.update(1.0)
    assert [one.update(-1.0) for _ in range(9)] == [other.update(-1.0) for _ in range(9)]
    assert one.value < 2.0


@pytest.mark.parametrize("lower_bound", [1e-3, 0.2])
def test_adam_does_not_wind_down_while_the_limit_is_slack(lower_bound):
    rules = [AdamMultiplier(learning_rate=0.5, lower_bound=lower_bound) for _ in "ab"]
    for rule, slack in zip(rules, (30, 3000), strict=True):
        for _ in range(slack):
            rule.update(-1.0)
        assert rule.value == pytest.approx(lower_bound)
    one, other = rules
    assert [one.update(1.0) for _ in range(40)] == [other.update(1.0) for _ in range(40)]
    assert one.value > 1.0


def test_adam_at_a_bound_is_moved_by_what_points_inward():
    rule = AdamMultiplier(learning_rate=0.5, initial=1e-3)
    assert rule.update(0.0) == pytest.approx(1e-3)
    assert rule.update(0.1) > 1e-3


@pytest.mark.parametrize("make", [GradientMultiplier, PIDMultiplier, AdamMultiplier])
def test_dual_dynamics_find_the_optimum(make):
    """With a best response of k = 1 / (4 m^2) the fixed point is m = 0.5 / sqrt(limit)."""
    multiplier, limit = make(initial=3.0), 0.25
    for _ in range(500):
        best_response = min(1.0, 0.25 / max(multiplier.value, 1e-3) ** 2)
        multiplier.update(best_response - limit)
    assert multiplier.value == pytest.approx(0.5 / math.sqrt(limit), rel=1e-3)


# -- several multipliers ---------------------------------------------------------------------------


def test_every_multiplier_follows_its_own_cost():
    rules = [GradientMultiplier(initial=1.0), PIDMultiplier(initial=2.0), FixedMultiplier(3.0)]
    alone = deepcopy(rules)
    vector = VectorMultiplier(rules)
    np.testing.assert_array_equal(vector.value, [1.0, 2.0, 3.0])
    for violation in np.random.default_rng(0).normal(size=(20, 3)):
        after = vector.update(violation)
        expected = [rule.update(own) for rule, own in zip(alone, violation, strict=True)]
        np.testing.assert_array_equal(after, expected)
        np.testing.assert_array_equal(vector.value, after)
    assert vector.value.dtype == np.float64


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_a_vector_have_its_state(how):
    vector = VectorMultiplier([GradientMultiplier(), AdamMultiplier()])
    vector.update(np.array([0.3, -0.1]))
    copy = COPIES[how](vector)
    assert copy.multipliers == vector.multipliers
    copy.update(np.array([1.0, 1.0]))
    assert (copy.value > vector.value).all()


@pytest.mark.parametrize("violation", [[1.0], [1.0, 2.0, 3.0], 1.0])
def test_a_vector_takes_one_violation_for_every_multiplier(violation):
    vector = VectorMultiplier([GradientMultiplier(), GradientMultiplier()])
    with pytest.raises(ValueError, match=r"violation is .*; it must be 2 numbers, one for every"):
        vector.update(np.array(violation))
    np.testing.assert_array_equal(vector.value, [1.0, 1.0])  # none has moved


def test_vectors_are_described():
    text = repr(VectorMultiplier([FixedMultiplier(1.0), FixedMultiplier(2.0)]))
    assert text == "VectorMultiplier([FixedMultiplier(value=1.0), FixedMultiplier(value=2.0)])"


def test_bad_vectors():
    with pytest.raises(ValueError, match="multipliers is empty; give one for every cost"):
        VectorMultiplier([])
    same = GradientMultiplier()
    with pytest.raises(ValueError, match="same object twice; it would follow two costs at once"):
        VectorMultiplier([same, same])
    with pytest.raises(TypeError, match=r"multiplier is 1.0; .*list with one for every cost"):
        VectorMultiplier([same, 1.0])


# -- what is handed in -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientMultiplier(learning_rate=0.0), "learning_rate is 0.0; .*> 0"),
        (lambda: GradientMultiplier(initial=-1.0), "initial is -1.0; .*>= 0"),
        (lambda: GradientMultiplier(initial=2.0, upper_bound=1.0), "initial is 2.0; .*Lower"),
        (lambda: GradientMultiplier(upper_bound=0.0), "upper_bound is 0.0; .*> 0"),
        (lambda: GradientMultiplier(upper_bound=math.nan), "upper_bound is nan"),
        (lambda: GradientMultiplier(learning_rate="a"), "learning_rate is 'a'"),
        (lambda: PIDMultiplier(kp=-1.0), "kp is -1.0; .*>= 0"),
        (lambda: PIDMultiplier(ki=math.nan), "ki is nan"),
        (lambda: PIDMultiplier(kd=math.inf), "kd is inf"),
        (lambda: PIDMultiplier(kp=0.0, ki=0.0, kd=0.0), "never moves. Use FixedMultiplier"),
        (lambda: PIDMultiplier(ema=1.0), r"ema is 1.0; it must be in \[0, 1\)"),
        (lambda: PIDMultiplier(derivative_ema=-0.1), r"derivative_ema is -0.1; .*in \[0, 1\)"),
        (lambda: PIDMultiplier(delay=0), "delay is 0; .*>= 1"),
        (lambda: AdamMultiplier(learning_rate=0.0), "learning_rate is 0.0; .*> 0"),
        (lambda: AdamMultiplier(initial=0.0), "initial is 0.0; .*Raise initial or lower"),
        (lambda: AdamMultiplier(lower_bound=0.0), "lower_bound is 0.0; .*> 0"),
        (lambda: AdamMultiplier(initial=2.0, upper_bound=1.0), "initial is 2.0; .*Lower"),
        (lambda: AdamMultiplier(betas=(0.9, 1.0)), r"betas is .*two numbers in \[0, 1\)"),
        (lambda: AdamMultiplier(betas=(0.9,)), r"betas is .*two numbers in \[0, 1\)"),
        (lambda: BarrierMultiplier(t=0.0), "t is 0.0; .*> 0"),
        (lambda: BarrierMultiplier(upper_bound=math.inf), "upper_bound is inf; .*finite"),
        (lambda: BarrierMultiplier(initial=21.0), "initial is 21.0; .*Lower"),
        (lambda: PenaltyMultiplier(kappa=0.0), "kappa is 0.0; .*> 0"),
        (lambda: PenaltyMultiplier(kappa=math.inf), "kappa is inf; .*> 0"),
        (lambda: FixedMultiplier(-0.5), "value is -0.5; .*>= 0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_default_multiplier_is_a_new_one():
    assert check_multiplier(None) == GradientMultiplier()
    assert check_multiplier(None) is not check_multiplier(None)


def test_a_list_becomes_a_vector():
    rules = [GradientMultiplier(), PIDMultiplier()]
    for several in (rules, tuple(rules)):
        assert check_multiplier(several).multipliers == tuple(rules)
    vector = VectorMultiplier(rules)
    assert check_multiplier(vector) is vector


@pytest.mark.parametrize("thing", [0.0, 1.0, GradientMultiplier, object()])
def test_what_is_no_multiplier_is_refused(thing):
    with pytest.raises(TypeError, match=r"multiplier is .*Pass for example GradientMultiplier\(\)"):
        check_multiplier(thing)
