import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.algorithms.cost_critic import (
    CostCriticMultiInputPolicy,
    CostCriticPolicy,
    cost_gae,
    fit_cost_critic,
    mix_advantages,
)


def advantages_by_definition(costs, values, starts, last_values, last_dones, gamma, lam):
    """Sum of (gamma * lambda)^k delta_{t+k} up to the end of the episode, term by term."""
    n_steps, n_envs = costs.shape
    ends = np.vstack([starts[1:], last_dones[None]]).astype(bool)
    following = np.vstack([values[1:], last_values[None]])
    deltas = costs + gamma * np.where(ends, 0.0, following) - values
    advantages = np.zeros_like(deltas)
    for env in range(n_envs):
        for step in range(n_steps):
            for k in range(step, n_steps):
                advantages[step, env] += (gamma * lam) ** (k - step) * deltas[k, env]
                if ends[k, env]:
                    break
    return advantages


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.7), (1.0, 0.0)])
def test_gae_is_its_definition(gamma, lam):
    rng = np.random.default_rng(0)
    costs, values = rng.normal(size=(2, 12, 3, 2))  # two costs of three environments
    starts = rng.random((12, 3)) < 0.3
    last_values, last_dones = rng.normal(size=(3, 2)), np.array([True, False, False])
    advantages, returns = cost_gae(
        costs, values, starts, last_values, last_dones, gamma=gamma, gae_lambda=lam
    )
    assert advantages.shape == returns.shape == costs.shape
    for k in range(2):
        own = costs[..., k], values[..., k], starts, last_values[:, k], last_dones
        expected = advantages_by_definition(*own, gamma, lam)
        np.testing.assert_allclose(advantages[..., k], expected, atol=1e-5)
        np.testing.assert_allclose(returns[..., k], expected + values[..., k], atol=1e-5)


def test_monte_carlo_returns_are_the_costs_still_to_come():
    costs = np.array([[1.0], [2.0], [4.0], [8.0]])
    starts = np.array([[True], [False], [True], [False]])
    values = np.full((4, 1, 1), 7.0)
    last = np.array([[100.0]]), np.array([True])
    _, returns = cost_gae(costs[..., None], values, starts, *last, gamma=1.0, gae_lambda=1.0)
    np.testing.assert_allclose(returns[:, 0, 0], [3.0, 2.0, 12.0, 8.0])


def mix(reward, cost, *prices, normalize=False):
    """Costs of shape (n_steps, n_envs), or with an axis of costs behind."""
    cost = cost if cost.ndim == 3 else cost[..., None]
    return mix_advantages(reward, cost, np.array(prices), normalize=normalize)


def test_mixed_advantage():
    reward, cost = np.array([[3.0, 1.0]]), np.array([[1.0, 5.0]])
    mixed = mix(reward, cost, 0.5)
    np.testing.assert_allclose(mixed, [[(3.0 + 0.5 * 2.0) / 1.5, (1.0 - 0.5 * 2.0) / 1.5]])
    normalized = mix(reward, cost, 0.5, normalize=True)
    np.testing.assert_allclose(normalized, [[(1.0 + 1.0) / 1.5, (-1.0 - 1.0) / 1.5]], rtol=1e-6)
    assert mixed.dtype == normalized.dtype == np.float32


def test_mixed_advantage_of_two_costs():
    reward = np.array([[3.0], [1.0]])
    cost = np.array([[[1.0, 10.0]], [[5.0, 4.0]]])  # centred: -2, 3 and 2, -3
    mixed = mix(reward, cost, 0.5, 2.0)
    np.testing.assert_allclose(mixed, [[(3.0 + 1.0 - 6.0) / 3.5], [(1.0 - 1.0 + 6.0) / 3.5]])
    rng = np.random.default_rng(0)
    reward, costs = rng.normal(size=(6, 2)), rng.normal(size=(6, 2, 2))
    np.testing.assert_array_equal(mix(reward, costs, 0.7, 0.0), mix(reward, costs[..., 0], 0.7))


def test_without_a_price_the_advantages_stay_as_they_are():
    reward = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    np.testing.assert_array_equal(mix(reward, 1e3 * reward, 0.0), reward)


def test_cost_advantages_are_never_rescaled():
    rng = np.random.default_rng(0)
    reward, cost = rng.normal(size=(2, 50, 1))
    small, large = (mix(reward, c, 1.0, normalize=True) for c in (cost, 10.0 * cost))
    centred = cost - cost.mean()
    np.testing.assert_allclose(small - large, 9.0 * centred / 2.0, atol=1e-5)


def test_a_large_price_turns_the_policy_against_the_cost_alone():
    rng = np.random.default_rng(0)
    reward, cost = rng.normal(size=(2, 50, 1))
    np.testing.assert_allclose(mix(reward, cost, 1e9), cost.mean() - cost, atol=1e-6)


def test_what_is_handed_in_is_not_changed():
    reward, cost = np.ones((3, 1)), np.arange(3.0)[:, None, None]
    mix(reward, cost, 1.0, normalize=True)
    np.testing.assert_array_equal(reward, np.ones((3, 1)))
    np.testing.assert_array_equal(cost[:, 0, 0], np.arange(3.0))


def make_policy(cls=CostCriticPolicy, **kwargs):
    th.manual_seed(0)
    box = spaces.Box(0.0, 1.0, (2,))
    return cls(box, spaces.Box(-1.0, 1.0, (1,)), lambda _: 1e-2, **kwargs)


def test_building_the_critic_leaves_random_numbers_alone():
    plain = make_policy(ActorCriticPolicy)
    after_plain = th.rand(3)
    policy = make_policy()
    assert th.equal(th.rand(3), after_plain)
    state = policy.state_dict()
    assert all(th.equal(state[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("n_costs", [1, 3])
@pytest.mark.parametrize("net_arch", [[8], {"pi": [4], "vf": [8, 6]}, {"pi": [4]}, []])
def test_optimisers_share_no_parameter(net_arch, n_costs):
    policy = make_policy(net_arch=net_arch, n_costs=n_costs)
    names = {id(p): name for name, p in policy.named_parameters()}
    groups = policy.optimizer.param_groups, policy.cost_optimizer.param_groups
    reward, cost = ({names[id(p)] for g in group for p in g["params"]} for group in groups)
    assert reward.isdisjoint(cost)
    assert reward | cost == set(names.values())
    assert all(name.startswith("cost_value_") for name in cost)
    assert policy.predict_cost_values(th.zeros(5, 2)).shape == (5, n_costs)


@pytest.mark.parametrize("n_costs", [1, 2])
def test_fitting_learns_the_targets_and_nothing_else(n_costs):
    policy = make_policy(net_arch=[32], n_costs=n_costs)
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    states = th.rand(256, 2)
    targets = th.stack([states[:, 0] + 2.0 * states[:, 1], -states[:, 0]], dim=1)[:, :n_costs]
    fit = {"batch_size": 64, "max_grad_norm": 10.0, "rng": np.random.default_rng(0)}
    first = fit_cost_critic(policy, states, targets, n_epochs=1, **fit)
    fit_cost_critic(policy, states, targets, n_epochs=50, **fit)
    last = fit_cost_critic(policy, states, targets, n_epochs=1, **fit)
    assert last < 0.01 < first
    for name, value in policy.state_dict().items():
        assert name.startswith("cost_value_") or th.equal(value, before[name])
    assert all(p.grad is None for p in policy.cost_parameters())
    predicted = policy.predict_cost_values(states).detach()
    assert (predicted - targets).abs().mean(dim=0).max() < 0.1


@pytest.mark.parametrize("as_dict", [False, True])
def test_every_target_stays_with_its_state(as_dict):
    """Batches of one see each pair alone: a critic of a linear target fits it exactly."""
    space = spaces.Box(0.0, 1.0, (2,))
    th.manual_seed(0)
    cls, seen = (CostCriticPolicy, space)
    if as_dict:
        cls, seen = CostCriticMultiInputPolicy, spaces.Dict({"x": space})
    policy = cls(seen, spaces.Discrete(2), lambda _: 3e-2, net_arch=[], n_costs=2)
    x = th.rand(40, 2)
    states = {"x": x} if as_dict else x
    targets = th.stack([x[:, 0], 1.0 - x[:, 1]], dim=1)
    fit = {"batch_size": 8, "max_grad_norm": 10.0, "rng": np.random.default_rng(0)}
    fit_cost_critic(policy, states, targets, n_epochs=150, **fit)
    predicted = policy.predict_cost_values(states).detach()
    np.testing.assert_allclose(predicted, targets, atol=0.02)
