"""Jobs of every kind, end to end: pruned, fine-tuned, tested."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jobs import JOBS, splits, trained

import prune_gym
from prune_gym.criteria import CRITERIA, score_groups


@pytest.fixture(scope="module", params=JOBS)
def job(request):
    """A job's name, its problem and its network."""
    name = request.param
    arguments = {**splits(name), **JOBS[name][2]}
    network = trained(name)
    problem = prune_gym.make_problem(
        network, budgets={"params": 0.5}, criterion="taylor", **arguments
    )
    return name, problem, network


def test_a_search_from_beginning_to_end(job):
    name, problem, _ = job
    assert problem.judge(problem.network) > 0.7
    state = torch.get_rng_state()
    result = prune_gym.search(problem, "random", evaluations=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(0.0 < row.accuracy <= 1.0 for row in result.archive.trials)
    tuned = result.best.fine_tune(40)
    assert tuned.costs["params"] <= 0.5
    assert tuned.validation_accuracy >= result.best.validation_accuracy
    assert np.isfinite(tuned.test_accuracy)
    assert (name == "two_inputs") == (problem.task.metric.name == "accuracy")


@pytest.mark.parametrize("criterion", ["activation", "kfac", "gibbs"])
def test_criteria_that_look_at_data(job, criterion):
    _, problem, network = job
    scores = score_groups(
        network, problem.groups, CRITERIA.get(criterion), problem.data.train, 0, problem.task
    )
    assert [len(own) for own in scores] == problem.sizes.tolist()
