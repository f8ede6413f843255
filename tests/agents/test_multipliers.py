import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import FixedMultiplier, GradientMultiplier, Multiplier, PIDMultiplier
from agents.multipliers import check_multiplier

MULTIPLIERS = [
    GradientMultiplier(initial=0.5),
    PIDMultiplier(initial=0.5, delay=3),
    FixedMultiplier(0.5),
]


@pytest.mark.parametrize("multiplier", MULTIPLIERS, ids=lambda m: type(m).__name__)
class TestProtocol:
    def test_is_a_multiplier(self, multiplier):
        assert isinstance(multiplier, Multiplier)
        assert check_multiplier(multiplier) is multiplier

    def test_starts_at_its_initial_value_and_is_never_negative(self, multiplier):
        fresh = pickle.loads(pickle.dumps(multiplier))
        assert fresh.value == 0.5
        for violation in np.random.default_rng(0).normal(-0.2, 1.0, 50):
            assert fresh.update(violation) == fresh.value >= 0.0

    def test_pickles_with_its_state(self, multiplier):
        first = pickle.loads(pickle.dumps(multiplier))
        for violation in (0.3, 0.1, -0.2):
            first.update(violation)
        second = pickle.loads(pickle.dumps(first))
        assert second == first
        assert [first.update(v) for v in (0.2, -0.1)] == [second.update(v) for v in (0.2, -0.1)]

    @pytest.mark.parametrize("violation", [math.nan, math.inf])
    def test_refuses_what_is_no_violation(self, multiplier, violation):
        with pytest.raises(ValueError, match=r"violation is (nan|inf).*Skip the update"):
            multiplier.update(violation)


gains = st.floats(0.01, 100.0)


@given(st.lists(st.floats(-1e3, 1e3), max_size=30), gains, gains, st.integers(1, 4))
def test_value_stays_within_its_bounds(violations, gain, upper_bound, delay):
    bounds = {"initial": 0.0, "upper_bound": upper_bound}
    gradient = GradientMultiplier(learning_rate=gain, **bounds)
    pid = PIDMultiplier(kp=gain, ki=gain, kd=gain, delay=delay, **bounds)
    for violation in violations:
        assert 0.0 <= gradient.update(violation) <= upper_bound
        assert 0.0 <= pid.update(violation) <= upper_bound


def test_gradient_step_is_proportional_and_projected():
    multiplier = GradientMultiplier(learning_rate=2.0, initial=1.0, upper_bound=1.5)
    assert multiplier.update(0.1) == pytest.approx(1.2)
    assert multiplier.update(10.0) == 1.5
    assert multiplier.update(-10.0) == 0.0
    assert multiplier.update(0.25) == 0.5


@pytest.mark.parametrize("upper_bound", [math.inf, 1.5])
def test_pid_with_integral_only_is_the_gradient_rule(upper_bound):
    shared = {"initial": 0.7, "upper_bound": upper_bound}
    pid = PIDMultiplier(kp=0.0, ki=0.3, kd=0.0, ema=0.9, delay=4, **shared)
    gradient = GradientMultiplier(learning_rate=0.3, **shared)
    for violation in np.random.default_rng(1).normal(0.0, 2.0, 200):
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


def test_integral_does_not_wind_up():
    pid = PIDMultiplier(kp=0.0, ki=1.0, kd=0.0, initial=0.0, upper_bound=2.0)
    for _ in range(100):
        pid.update(-1.0)
    assert pid.update(0.5) == 0.5
    for _ in range(100):
        pid.update(1.0)
    assert pid.update(-0.5) == 1.5


@pytest.mark.parametrize("make", [GradientMultiplier, PIDMultiplier])
def test_dual_dynamics_find_the_optimum(make):
    """With a best response of k = 1 / (4 m^2) the fixed point is m = 0.5 / sqrt(limit)."""
    multiplier, limit = make(), 0.25
    for _ in range(300):
        best_response = min(1.0, 0.25 / max(multiplier.value, 1e-3) ** 2)
        multiplier.update(best_response - limit)
    assert multiplier.value == pytest.approx(0.5 / math.sqrt(limit), rel=1e-3)


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
        (lambda: PIDMultiplier(delay=0), "delay is 0; .*>= 1"),
        (lambda: FixedMultiplier(-0.5), "value is -0.5; .*>= 0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_default_multiplier_is_a_new_one():
    assert check_multiplier(None) == GradientMultiplier()
    assert check_multiplier(None) is not check_multiplier(None)


@pytest.mark.parametrize("thing", [0.0, 1.0, GradientMultiplier, object()])
def test_what_is_no_multiplier_is_refused(thing):
    with pytest.raises(TypeError, match=r"multiplier is .*Pass for example GradientMultiplier\(\)"):
        check_multiplier(thing)
