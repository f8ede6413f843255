import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agents import BarrierMultiplier, PenaltyMultiplier


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0.1, 100.0))
def test_barrier_is_the_slope_of_the_logarithm(slack, t, upper_bound):
    barrier = BarrierMultiplier(t=t, initial=0.0, upper_bound=upper_bound)
    value = barrier.update(-slack)
    assert value == pytest.approx(min(1.0 / (t * slack), upper_bound))
    assert value == barrier.value


@settings(deadline=None)
@given(st.floats(0.0, 1e6))
def test_barrier_is_at_its_bound_where_the_logarithm_has_no_value(violation):
    assert BarrierMultiplier(upper_bound=7.0).update(violation) == 7.0


@settings(deadline=None)
@given(st.floats(-10.0, 10.0), st.floats(-10.0, 10.0))
def test_barrier_grows_as_the_limit_comes_near(one, other):
    assume(one < other)
    barrier = BarrierMultiplier(t=5.0)
    assert barrier.update(one) <= barrier.update(other)


def test_barrier_has_no_memory():
    barrier = BarrierMultiplier(t=10.0)
    assert [barrier.update(v) for v in (-0.1, 5.0, -0.1, -0.2)] == pytest.approx([1, 20, 1, 0.5])


def test_barrier_settles_below_the_limit_by_as_much_as_it_says():
    """With a best response of k = 1 / (4 m^2), damped as a policy that learns is."""
    barrier, limit, cost = BarrierMultiplier(t=50.0), 0.25, 0.1
    for _ in range(500):
        price = barrier.update(cost - limit)
        cost += 0.05 * (min(1.0, 0.25 / price**2) - cost)
    assert limit - cost == pytest.approx(1.0 / (50.0 * barrier.value), rel=1e-3)
    assert barrier.value == pytest.approx(0.5 / cost**0.5, rel=1e-3)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(0.01, 1e6))
def test_penalty_is_on_while_the_limit_is_broken(violation, kappa):
    penalty = PenaltyMultiplier(kappa=kappa)
    assert penalty.value == 0.0
    assert penalty.update(violation) == (kappa if violation > 0.0 else 0.0)
    assert penalty.update(-1.0) == penalty.value == 0.0


def test_meeting_the_limit_exactly_is_no_violation():
    assert PenaltyMultiplier().update(0.0) == 0.0
