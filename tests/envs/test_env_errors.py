"""Every wrong input to an environment gets an error that names it and says what is allowed."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import tiny

from prune_gym import Budget, InfeasibleLimitError
from prune_gym.envs import FilterPruneEnv, LayerPruneEnv, NetworkPruneEnv

# those that work at once: with trained weights in the package
IDS = ["PruneVGG-v0", "PruneVGGFilters-v0"]


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "smal"}, r"unknown network 'smal'. Did you mean 'small'\? Known: resnet110"),
        ({"dataset": "digit"}, r"unknown dataset 'digit'. Did you mean 'digits'\?"),
        (
            {"criterion": "l3"},
            r"unknown criterion 'l3'. Did you mean 'l[12]'\? Known: .*, l1, l2, ",
        ),
        ({"recovery": "fine-tune"}, r"unknown recovery 'fine-tune'. Did you mean 'finetune'\?"),
        ({"budgets": {"parms": 0.5}}, r"unknown budget 'parms'. Did you mean 'params'\?"),
        ({"granularity": "layers"}, r"unknown granularity 'layers'. Did you mean 'layer'\?"),
        ({"cost_mode": "densee"}, r"unknown cost_mode 'densee'. Did you mean 'dense'\?"),
        ({"structure": "filters"}, r"structure='filters' must be one of filter, weight"),
        ({"max_ratio": 0.0}, r"max_ratio=0.0 must be a number in \(0, 1\]"),
        ({"max_ratio": True}, r"max_ratio=True must be a number"),
        ({"recovery_steps": -1}, r"recovery_steps=-1 must be a whole number of at least 0"),
        (
            {"budgets": {"params": 0.0}},
            r"limit of 'params' is 0.0; it must be a number in \(0, 1\]",
        ),
        ({"budgets": {"params": 1.5}}, r"limit of 'params' is 1.5"),
        ({"budgets": {}}, r"budgets=\{\}: expected limits by budget"),
        ({"max_ratio": 0.5}, r"budget 'params': limit 0.1 is below the floor 0.2515"),
        ({"evaluation_samples": 401}, r"evaluation_samples=401 is more than the 400 validation"),
        ({"evaluation_samples": 0}, r"evaluation_samples=0 must be a whole number of at least 1"),
        ({"device": "abacus"}, r"device='abacus' cannot be used here .*'cpu', 'cuda' or 'auto'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_arguments(env_id, arguments, message):
    with pytest.raises(ValueError, match=message):
        gym.make(env_id, **arguments)


def test_render_mode_of_the_class(tiny_problem):
    with pytest.raises(ValueError, match=r"unknown render_mode 'asni'. Did you mean 'ansi'\?"):
        LayerPruneEnv(tiny_problem, render_mode="asni")


def test_problem_that_is_none():
    with pytest.raises(TypeError, match=r"problem=3: expected a PruningProblem.*make_problem"):
        LayerPruneEnv(3)


def test_problem_and_its_arguments(tiny_problem):
    with pytest.raises(ValueError, match=r"problem is given, so criterion, network cannot be"):
        LayerPruneEnv(tiny_problem, criterion="l2", network="small")


def test_unknown_argument():
    with pytest.raises(TypeError, match="unexpected keyword argument 'budget'"):
        gym.make("PruneVGG-v0", budget={"params": 0.5})


def test_limit_that_cannot_be_reached_names_the_floor():
    with pytest.raises(
        InfeasibleLimitError, match=r"limit 1e-05 is below the floor 0.0\d+ \(.*\) \(the s"
    ):
        gym.make("PruneVGG-v0", budgets={"params": 1e-5})


def test_single_weights_have_no_filters():
    problem = tiny.make_tiny(structure="weight")
    with pytest.raises(ValueError, match=r"structure='weight' does not go with granularity='filt"):
        FilterPruneEnv(problem)


def test_dense_cost_needs_a_monotone_budget():
    strange = Budget("strange", lambda network: 1.0)
    problem = tiny.make_tiny(budgets={strange: 1.0})
    with pytest.raises(ValueError, match=r"cost_mode='dense' with budget 'strange'.*monotone=True"):
        LayerPruneEnv(problem, cost_mode="dense")
    assert LayerPruneEnv(problem).cost_names == ("strange",)


def test_a_dense_cost_of_filters_is_counted():
    """A measured budget may depend on which filters stay: its floor can fall."""
    measured = Budget("tensors", lambda network: 1.0, monotone=True, deterministic=True)
    problem = tiny.make_tiny(budgets={"params": 0.5, measured: 1.0})
    with pytest.raises(
        ValueError,
        match=r"cost_mode='dense' with granularity='filter' and budget 'tensors': it is measured.*"
        r"Use granularity='layer', or cost_mode='terminal'",
    ):
        FilterPruneEnv(problem, cost_mode="dense")
    FilterPruneEnv(problem)
    LayerPruneEnv(problem, cost_mode="dense")


@pytest.mark.parametrize("env_class", [LayerPruneEnv, FilterPruneEnv, NetworkPruneEnv])
@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((2, 2), dtype=np.float32), r"action has shape \(2, 2\); this environment takes"),
        (np.float32(0.5), r"action has shape \(\); this environment takes"),
        ("keep", r"action 'keep' is no array of numbers"),
        (None, r"action"),
    ],
)
def test_actions(tiny_problem, env_class, action, message):
    env = env_class(tiny_problem)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


@pytest.mark.parametrize("env_class", [LayerPruneEnv, FilterPruneEnv, NetworkPruneEnv])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_actions_that_are_not_finite(tiny_problem, env_class, number):
    env = env_class(tiny_problem)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action holds NaN or infinity"):
        env.step(np.full(env.action_space.shape, number, dtype=np.float32))


def test_step_after_the_end(tiny_problem):
    env = NetworkPruneEnv(tiny_problem)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    with pytest.raises(
        RuntimeError, match=r"step\(\) after the episode's end: call reset\(\) first"
    ):
        env.step(env.action_space.sample())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_ration": 0.5}, r"unknown option 'max_ration'. Did you mean 'max_ratio'\?"),
        ({"max_ratio": 1.5}, r"max_ratio=1.5 must be a number in \(0, 1\]"),
        ({"max_ratio": float("nan")}, r"max_ratio=nan must be a number in \(0, 1\]"),
        ({"max_ratio": 0.1}, r"limit 0.5 is below the floor"),
        ({"recovery_steps": -1}, r"recovery_steps=-1 must be a whole number"),
        ({"recovery_steps": 1.5}, r"recovery_steps=1.5 must be a whole number"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_options_and_schedules(tiny_problem, options, message):
    env = LayerPruneEnv(tiny_problem)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    with pytest.raises(ValueError, match=message):
        env.set_schedule(**options)
    before = tiny.rollout(LayerPruneEnv(tiny_problem))
    tiny.assert_identical(tiny.rollout(env), before)


def test_render_without_a_mode_warns(tiny_problem):
    env = LayerPruneEnv(tiny_problem)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match=r"render\(\) without render_mode"):
        assert env.render() is None
