"""The sensitivity scan: each group cut alone, what is lost, and what lies between."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

import prune_gym
from prune_gym.problem.sensitivity import (
    WIDTHS,
    Sensitivity,
    scan,
    scan_counts,
    scanning,
    sensitivity_of,
)


def by_hand(rewards, counts=(1, 2, 4, 8), size=16, unpruned=1.0) -> Sensitivity:
    """Of one group."""
    return Sensitivity(
        names=("group",),
        sizes=np.array([size]),
        unpruned=unpruned,
        counts=(np.array(counts),),
        rewards=(np.array(rewards, dtype=float),),
    )


def test_losses_are_made_monotone():
    drops = by_hand([0.5, 0.2, 0.9, 1.1]).drops[0]
    np.testing.assert_allclose(drops, [0.8, 0.8, 0.1, 0.0])  # 0.2 at two filters holds at one, too


def test_between_two_widths_it_is_interpolated_by_the_logarithm():
    sensitivity = by_hand([0.2, 0.6, 0.8, 1.0])
    shares = np.array([1 / 16, np.sqrt(1 / 16 * 1 / 8), 1 / 8, 1 / 2, 0.75, 1.0])
    np.testing.assert_allclose(sensitivity.drop(0, shares), [0.8, 0.6, 0.4, 0.0, 0.0, 0.0])
    assert sensitivity.drop(0, 0.0) == 1.0  # all that there is


def test_a_group_that_can_go_whole_loses_what_was_judged():
    assert by_hand([0.7, 0.8], counts=(0, 2)).drop(0, 0.0) == pytest.approx(0.3)


@pytest.mark.parametrize("rewards", [[-0.4, -0.3, -0.2, -0.1], [-9.0, -1.0, -1.0, -0.5]])
def test_rewards_may_be_below_zero(rewards):
    sensitivity = by_hand(rewards, unpruned=-0.1)
    lost = sensitivity.drop(0, np.linspace(0.0, 1.0, 30))
    assert (np.diff(lost) <= 1e-12).all()
    assert lost[-1] == 0.0
    assert np.isfinite(lost).all()


def test_losses_never_rise_with_what_is_kept(tiny_problem):
    sensitivity = tiny_problem.sensitivity
    for group, own in enumerate(sensitivity.drops):
        assert (np.diff(own) <= 0.0).all()
        assert (np.diff(sensitivity.drop(group, np.linspace(0.0, 1.0, 50))) <= 1e-12).all()


def test_the_scan_cuts_one_group_at_a_time(default_problem):
    plan = scan_counts(default_problem)
    sizes = default_problem.sizes
    assert plan[0].tolist() == sizes.tolist()
    assert all(np.count_nonzero(counts != sizes) == 1 for counts in plan[1:])
    assert len(plan) == 1 + len(WIDTHS) * len(sizes)
    of_first = [int(counts[0]) for counts in plan if counts[0] != sizes[0]]
    assert of_first == [max(1, round(share * int(sizes[0]))) for share in WIDTHS]


def test_it_is_judged_once_and_kept():
    problem = tiny.make_tiny()
    found = problem.sensitivity
    assert problem.sensitivity is found
    memory = problem.evaluator.memory
    assert memory.hits + len(scan_counts(problem)) >= found.evaluations
    again = scan(tiny.make_tiny())
    for one, other in zip(found.rewards, again.rewards, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.unpruned == problem.evaluate(problem.masks_of(problem.sizes)).accuracy


@pytest.mark.parametrize("most", [1, 3, 4, 5, 8, 10, 13, 100])
def test_fewer_evaluations_judge_fewer_widths(tiny_problem, most):
    plan = scan_counts(tiny_problem, most)
    assert 1 <= len(plan) <= most
    cut = [sum(counts[g] != tiny_problem.sizes[g] for counts in plan) for g in range(3)]
    assert max(cut) - min(cut) <= 1  # evenly
    sensitivity = sensitivity_of(tiny_problem, plan, [0.5] * len(plan))
    assert sensitivity.evaluations == len(plan)
    assert prune_gym.problem.allocation.Allocation(tiny_problem, sensitivity).counts().min() >= 1


def test_a_scan_that_was_stopped_is_of_what_was_judged(tiny_problem):
    plan = scan_counts(tiny_problem)
    sensitivity = sensitivity_of(tiny_problem, plan, [0.9, 0.2])
    assert [len(own) for own in sensitivity.counts] == [1, 0, 0]
    assert sensitivity.drop(1, 1.0) == 0.0
    assert sensitivity.drop(0, 1.0) == 0.0


def test_as_a_proposer_it_says_the_same(tiny_problem):
    proposer = scanning(tiny_problem)
    outcomes = [tiny_problem.evaluate(masks) for masks in next(proposer)]
    with pytest.raises(StopIteration) as stopped:
        proposer.send([(one.accuracy, one.cost, one.feasible) for one in outcomes])
    for one, other in zip(stopped.value.value.drops, tiny_problem.sensitivity.drops, strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_a_block_that_can_go_whole_that_is_judged_once():
    problem = tiny.make_tiny("residual", depth=True)
    plan = scan_counts(problem)
    gone = [int(np.flatnonzero(counts == 0)[0]) for counts in plan if (counts == 0).any()]
    blocks = {group.block.name for group in problem.groups if group.block}
    assert len(gone) == len(blocks) > 0
    assert {problem.groups[group].block.name for group in gone} == blocks


def test_widths_are_multiples_of_round_to():
    problem = tiny.make_tiny(round_to=2)
    for counts in scan_counts(problem)[1:]:
        group = int(np.flatnonzero(counts != problem.sizes)[0])
        assert counts[group] % 2 == 0


def test_a_problem_takes_what_was_found_before():
    problem, other = tiny.make_tiny(), tiny.make_tiny()
    before = problem.allocation
    found = sensitivity_of(other, scan_counts(other), [0.7] * len(scan_counts(other)))
    problem = problem.knowing(found)
    assert problem.sensitivity is found
    assert problem.allocation is not before
    assert problem.allocation.sensitivity is found


def test_what_cannot_be_known(tiny_problem, residual_problem):
    with pytest.raises(ValueError, match=r"other filter groups .*problem\.sensitivity makes one"):
        tiny_problem.knowing(residual_problem.sensitivity)
    with pytest.raises(TypeError, match=r"sensitivity=0.5: expected a Sensitivity"):
        tiny_problem.knowing(0.5)
