"""`PruningProblem` and `make_problem`: values, and every wrong argument."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torch.utils.data import TensorDataset

import prune_gym
from prune_gym import Budget, make_problem
from prune_gym.errors import InfeasibleLimitError
from prune_gym.problem.make import shared_problem


def test_a_problem_is_frozen(tiny_problem):
    with pytest.raises(FrozenInstanceError):
        tiny_problem.limits = (1.0,)


def test_an_outcome_is_what_its_network_is(tiny_problem):
    outcome = tiny_problem.evaluate(tiny_problem.masks_of([2, 3, 4]))
    assert outcome.accuracy == tiny_problem.accuracy(outcome.network)
    assert outcome.values["params"] == sum(p.numel() for p in outcome.network.parameters())
    assert outcome.costs["params"] == outcome.values["params"] / tiny_problem.unpruned_values[0]
    np.testing.assert_array_equal(outcome.kept, np.array([0.5, 0.5, 0.5], dtype=np.float32))
    assert outcome.feasible == (outcome.cost <= 0.5)
    assert not outcome.network.training


def test_a_limit_is_met_without_tolerance(tiny_problem):
    assert tiny_problem.feasible(np.array([0.5]))
    assert not tiny_problem.feasible(np.array([np.nextafter(0.5, 1.0)]))


def test_masks_that_do_not_fit(tiny_problem):
    with pytest.raises(ValueError, match=r"masks: got 2 of them for 3 filter groups"):
        tiny_problem.evaluate(tiny_problem.masks_of([2, 3, 4])[:2])


def test_data_as_users_have_it():
    images, labels = tiny.data_of(20, 0)
    arrays = (images.numpy(), labels.numpy())
    arguments = {"network": tiny.build("vgg"), "budgets": {"params": 0.5}}
    problems = [
        make_problem(train=data, validation=data, **arguments)
        for data in ((images, labels), arrays, list(arrays), TensorDataset(images, labels))
    ]
    masks = problems[0].masks_of([2, 3, 4])
    assert len({problem.evaluate(masks).accuracy for problem in problems}) == 1
    for problem in problems:
        assert torch.equal(problem.data.validation.images, images)
        assert problem.data.validation.labels.dtype == torch.int64
        assert problem.data.n_classes == 3
        assert problem.data.test is None


def test_evaluation_samples(default_problem):
    problem = make_problem(evaluation_samples=50)
    assert len(problem.data.validation) == 50
    assert len(problem.data.train) == len(default_problem.data.train)
    fewer, all_of_them = problem.data.validation.labels, default_problem.data.validation.labels
    expected = torch.bincount(all_of_them) * 50 / len(all_of_them)  # each class as it is in all
    assert (torch.bincount(fewer) - expected).abs().max() < 1.0
    whole = {image.numpy().tobytes() for image in default_problem.data.validation.images}
    assert all(image.numpy().tobytes() in whole for image in problem.data.validation.images)


def test_equal_arguments_share_a_problem():
    one = shared_problem(network="small", budgets={"params": 0.3})
    assert shared_problem(budgets={"params": 0.3}, network="small") is one
    assert shared_problem(budgets={"params": 0.31}, network="small") is not one
    assert shared_problem(budgets={"params": 0.3, "macs": 0.5}).names == ("params", "macs")
    assert shared_problem(budgets={"macs": 0.5, "params": 0.3}).names == ("macs", "params")


def build_network(*, in_channels, n_classes):
    return tiny.vgg()


def build_nothing(*, in_channels, n_classes):
    return 3


def test_networks_by_module_and_function(tmp_path):
    path = tmp_path / "vgg.safetensors"
    prune_gym.networks.checkpoints.save_weights(tiny.build("vgg"), path)
    data = {"train": tiny.data_of(9, 0), "validation": tiny.data_of(9, 0)}
    problem = make_problem(
        f"{__name__}:build_network", weights=path, budgets={"params": 0.5}, **data
    )
    assert [group.n_filters for group in problem.groups] == [4, 6, 8]
    with pytest.raises(TypeError, match=r"build_nothing' gave int; expected an nn.Module"):
        make_problem(f"{__name__}:build_nothing", weights=path, **data)
    with pytest.raises(ValueError, match=r"network 'gone:net' cannot be imported: No module named"):
        make_problem("gone:net", **data)


IMAGES, LABELS = tiny.data_of(9, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": (IMAGES, LABELS)}, "train and validation belong together"),
        ({"validation": (IMAGES, LABELS)}, "train and validation belong together"),
        ({"train": 3, "validation": 3}, r"train: expected a pair \(inputs, targets\).*got int"),
        (
            {"train": (IMAGES, LABELS), "validation": (IMAGES, LABELS[:3])},
            r"validation: images of shape \(9, 1, 8, 8\) and labels of shape \(3,\) do not fit",
        ),
        (
            {"train": (IMAGES[:0], LABELS[:0]), "validation": (IMAGES, LABELS)},
            r"train: images of shape \(0, 1, 8, 8\).*with n > 0",
        ),
        (
            {"train": (IMAGES * float("nan"), LABELS), "validation": (IMAGES, LABELS)},
            r"train: images hold NaN or infinity; clean them first",
        ),
        ({"network": tiny.vgg(), "weights": "x"}, r"weights: only for a network given by name"),
        ({"network": "smal"}, r"unknown network 'smal'. Did you mean 'small'"),
        ({"network": 7}, r"unknown network 7"),
        ({"dataset": "digts"}, r"unknown dataset 'digts'. Did you mean 'digits'"),
        ({"recovery_steps": 1.5}, r"recovery_steps=1.5 must be a whole number of at least 0"),
        ({"evaluation_samples": 10**6}, r"evaluation_samples=1000000 is more than the 400"),
        ({"evaluation_samples": True}, r"evaluation_samples=True must be a whole number"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_problem(**arguments)


def test_labels_of_a_network_with_fewer_outputs_are_not_hidden():
    images, labels = tiny.data_of(12, 0)
    with pytest.raises(ValueError, match=r"test"):
        make_problem(
            tiny.build("vgg"),
            train=(images, labels),
            validation=(images, labels),
            test=(images, labels + 2),
        )


def test_the_default_problem_needs_no_arguments(default_problem):
    assert default_problem.names == ("params",)
    assert default_problem.limits == (0.1,)
    assert isinstance(default_problem.network, nn.Module)
    assert not default_problem.network.training


def test_unpruned_values_that_are_known_are_not_measured_again():
    calls = []

    def clock(network):
        calls.append(network)
        return 10.0 * len(calls)

    budgets = {Budget("clock", clock, unit="ms"): "2ms", "params": 0.9}
    problem = tiny.make_tiny(budgets=budgets, unpruned_values={"clock": 8.0})
    assert calls == []
    assert problem.limits == (0.25, 0.9)
    assert problem.unpruned_values.tolist() == [8.0, 765.0]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([3.0], TypeError, r"unpruned_values=\[3.0\]: expected a number by budget"),
        ({"params": 0.0}, ValueError, "unpruned_values: that of 'params' is 0.0; it must be a fin"),
        ({"params": "9"}, ValueError, "unpruned_values: that of 'params' is '9'; it must be a fin"),
        ({"parms": 9.0}, ValueError, "unknown budget in unpruned_values 'parms'. Did you mean 'p"),
    ],
)
def test_unpruned_values_that_are_none(values, kind, message):
    with pytest.raises(kind, match=message):
        tiny.make_tiny(unpruned_values=values)


@pytest.mark.skipif(os.name == "nt", reason="the program is for /bin/sh")
def test_a_shared_problem_runs_the_program_of_its_folder(tmp_path, monkeypatch):
    values = []
    for number in (3, 4):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "measure.sh").write_text(f"#!/bin/sh\necho {number}\n")
        (folder / "measure.sh").chmod(0o755)
        monkeypatch.chdir(folder)
        problem = shared_problem(budgets={"command:./measure.sh {safetensors}": 1.0})
        values.append(float(problem.unpruned_values[0]))
    assert values == [3.0, 4.0]


@pytest.mark.parametrize("deterministic", [True, False])
def test_noise_does_not_refuse_what_could_be_reached_before(deterministic):
    """A machine that has become slower: every network is now over the limit."""

    def clock(network):
        return 100.0

    budget = Budget("clock", clock, unit="ms", deterministic=deterministic)
    with pytest.raises(
        InfeasibleLimitError, match=r"budget 'clock': limit 0.25 is below the floor 1"
    ):
        tiny.make_tiny(budgets={budget: 0.25})
    known = {"clock": 8.0}
    if deterministic:
        with pytest.raises(InfeasibleLimitError, match=r"below the floor 12.5"):
            tiny.make_tiny(budgets={budget: "2ms"}, unpruned_values=known)
    else:
        assert tiny.make_tiny(budgets={budget: "2ms"}, unpruned_values=known).limits == (0.25,)
