"""The policy that comes with the package: where it fits, and that it goes on learning."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import prune_gym
from agents import BudgetToyEnv, load_pretrained
from agents.errors import ModelFileError, UnfitEnvError
from agents.zoo.make import PRETRAINED


@pytest.fixture
def env(tiny_problem):
    return gym.make("Prune-v1", problem=tiny_problem)


def test_it_acts_and_learns(env):
    model = load_pretrained(env, n_steps=6, batch_size=6, seed=0, device="cpu")
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert action.shape == (1,)
    weights = model.policy.state_dict()
    shipped = load_file(PRETRAINED)
    assert all(torch.equal(weights[name], value) for name, value in shipped.items())
    model.learn(12)
    assert any(not torch.equal(model.policy.state_dict()[n], v) for n, v in shipped.items())


def test_it_fits_networks_of_every_size(env):
    bigger = gym.make("PruneVGG-v1")
    model = load_pretrained(bigger, seed=0, device="cpu")
    for one in (env, bigger):
        observation, _ = one.reset(seed=0)
        assert one.action_space.contains(model.predict(observation, deterministic=True)[0])


def test_environments_that_it_does_not_fit(tiny_problem):
    with pytest.raises(UnfitEnvError, match="decide beside a prior, layer by layer, with one bud"):
        load_pretrained(BudgetToyEnv(), device="cpu")
    with pytest.raises(UnfitEnvError, match="without history"):
        load_pretrained(gym.make("Prune-v1", problem=tiny_problem, history=True), device="cpu")


def test_bad_files(tmp_path, env):
    with pytest.raises(ModelFileError, match=r"nothing.safetensors holds no policy"):
        load_pretrained(env, tmp_path / "nothing.safetensors", device="cpu")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ModelFileError, match="junk holds no policy"):
        load_pretrained(env, tmp_path / "junk", device="cpu")
    save_file({"one": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(UnfitEnvError, match="is of other observations or actions"):
        load_pretrained(env, tmp_path / "other", device="cpu")


def test_a_search_begins_with_its_network(tiny_problem):
    result = prune_gym.search(tiny_problem, "pretrained", evaluations=30, seed=0)
    again = prune_gym.search(tiny_problem, "pretrained", evaluations=30, seed=0)
    np.testing.assert_array_equal(result.networks["cost"], again.networks["cost"])
    assert len(result) == 30
    assert result.feasible
