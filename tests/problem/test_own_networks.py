"""Networks that people bring: rounding, ids for problems of one's own, the CIFAR ids."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import prune_gym
from prune_gym.errors import CheckpointError
from prune_gym.networks.checkpoints import checkpoint_path, save_weights
from prune_gym.pruning.masks import kept_count
from prune_gym.searches.baselines import masks_of_ratios

CIFAR = [env_id for env_id in prune_gym.ENVIRONMENTS if "CIFAR10" in env_id]


# -- rounding --------------------------------------------------------------------------------------


@given(st.floats(0.0, 1.0), st.integers(1, 200), st.integers(1, 33))
def test_kept_counts_are_multiples_and_near(ratio, n, multiple):
    kept = kept_count(ratio, n, multiple)
    assert 1 <= kept <= n
    assert kept == n or kept % multiple == 0
    if n > 2 * multiple:
        assert abs(kept - (1.0 - ratio) * n) <= max(multiple, 0.5 * multiple + 0.5)
    assert kept_count(ratio, n, 1) == kept_count(ratio, n)


@given(st.integers(1, 100), st.integers(1, 20), st.floats(0, 1), st.floats(0, 1))
def test_more_pruning_never_keeps_more(n, multiple, one, other):
    low, high = sorted((one, other))
    assert kept_count(high, n, multiple) <= kept_count(low, n, multiple)


@pytest.mark.parametrize("granularity", ["layer", "filter", "network"])
def test_every_environment_keeps_multiples(granularity):
    problem = tiny.make_tiny(round_to=3, budgets={"params": 0.9})
    env = gym.make("Prune-v0", problem=problem, granularity=granularity)
    seen = set()
    for seed in range(20):
        tiny.rollout(env, seed=seed)
        for mask, size in zip(env.unwrapped.last_masks(), problem.sizes, strict=True):
            kept = int(mask.sum())
            assert kept == size or kept % 3 == 0
            seen.add(kept)
    assert {3, 6} <= seen


def test_controls_keep_multiples_and_the_floor_knows():
    problem = tiny.make_tiny(round_to=4, budgets={"params": 0.6})
    masks = masks_of_ratios(problem, np.array([0.9, 0.6, 0.3]))
    assert [int(mask.sum()) for mask in masks] == [4, 4, 8]  # 6 of 8 lie between
    with pytest.raises(prune_gym.InfeasibleLimitError, match=r"limit 0.1 is below the floor 0\.\d"):
        tiny.make_tiny(round_to=4, budgets={"params": 0.1})


def test_rounding_that_means_nothing():
    with pytest.raises(ValueError, match="round_to=0 must be a whole number of at least 1"):
        tiny.make_tiny(round_to=0)
    with pytest.raises(ValueError, match=r"round_to=8 with structure='weight': .*leave it at 1"):
        tiny.make_tiny(round_to=8, structure="weight")


# -- ids -------------------------------------------------------------------------------------------


def test_prune_v0_takes_any_problem():
    problem = tiny.make_tiny("residual")
    env = gym.make("Prune-v0", problem=problem)
    assert env.unwrapped.problem is problem
    last = tiny.rollout(env)[-1]
    assert last[2]
    assert last[4]["accuracy"] == last[1]


def test_prune_v0_without_a_problem():
    with pytest.raises(ValueError, match=r"Prune-v0 prunes what you bring: .*problem=.*network="):
        gym.make("Prune-v0")
    assert gym.make("Prune-v0", network="small").unwrapped.problem.data.name == "digits"


@pytest.mark.parametrize("env_id", CIFAR)
def test_cifar_ids_say_how_to_make_their_weights(env_id):
    network = prune_gym.ENVIRONMENTS[env_id]["network"]
    command = rf"Make them: prune-gym pretrain {network} --dataset cifar10 "
    with pytest.raises(CheckpointError, match=command):
        gym.make(env_id)


def test_a_cifar_id_finds_the_weights_of_the_cache(own_cache, monkeypatch):
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    split = prune_gym.Split(images, torch.arange(20) % 10)
    data = prune_gym.Dataset("cifar10", split, split, None, 10)
    monkeypatch.setattr("prune_gym.problem.make.load_dataset", lambda name: data)
    network = prune_gym.NETWORKS.get("resnet56")()
    path = checkpoint_path(own_cache, "resnet56", "cifar10")
    save_weights(network, path)
    try:
        env = gym.make("PruneResNet56-CIFAR10-v0", recovery="none")
        assert len(env.unwrapped.problem.groups) == 30
        assert tiny.rollout(env)[-1][2]
    finally:
        path.unlink()


def test_every_cifar_id_names_a_network_that_exists():
    assert {prune_gym.ENVIRONMENTS[env_id]["network"] for env_id in CIFAR} == {
        "vgg11", "vgg16", "vgg19", "resnet18", "resnet50", "resnet56"
    }  # fmt: skip
    assert all(prune_gym.ENVIRONMENTS[i]["network"] in prune_gym.NETWORKS for i in CIFAR)


# -- what does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(("n_outputs", "fits"), [(2, False), (3, True), (5, True)])
def test_outputs_for_every_label(n_outputs, fits):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, n_outputs)
    )
    if fits:  # labels alone do not tell how many classes there may be
        assert tiny.make_tiny(network).data.n_classes == 3
        return
    with pytest.raises(ValueError, match=r"outputs of shape \(1, 2\) .* has 3 classes; expected"):
        tiny.make_tiny(network)


def test_outputs_of_a_dataset_that_knows_its_classes():
    network = prune_gym.NETWORKS.get("small")(n_classes=12)
    with pytest.raises(ValueError, match=r"\(1, 12\) for one image, but 'digits' has 10 classes"):
        prune_gym.make_problem(network)


def test_pixels_and_floats_do_not_mix():
    images, labels = tiny.data_of(12, 0)
    pixels = (images.abs() * 50).byte()
    with pytest.raises(ValueError, match=r"validation: images are torch.float32, but .* uint8"):
        prune_gym.make_problem(
            tiny.build("vgg"), train=(pixels, labels), validation=(images, labels)
        )


class InPlace(torch.nn.Module):
    """Changes the images it is given."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(1, 6, 3), torch.nn.Linear(6, 3)

    def forward(self, images):
        images.mul_(2.0).sub_(0.1)
        return self.head(self.conv(images).relu().mean(dim=(2, 3)))


def test_networks_that_work_in_place_change_no_data():
    train, validation = tiny.data_of(12, 0), tiny.data_of(12, 1)
    before = train[0].clone(), validation[0].clone()
    problem = prune_gym.make_problem(
        InPlace(), train=train, validation=validation, budgets={"params": 0.9, "macs": 0.9}
    )
    masks = problem.masks_of([3])
    first, again = problem.evaluate(masks), problem.evaluate(masks)
    assert first.accuracy == again.accuracy
    assert torch.equal(train[0], before[0])
    assert torch.equal(validation[0], before[1])
