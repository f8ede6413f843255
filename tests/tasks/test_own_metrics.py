"""Metrics and losses of one's own: their reward, and what is named before a search."""

from __future__ import annotations

import math
import pickle
from collections import namedtuple
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torchmetrics
from jobs import splits, trained
from torch import nn
from torchmetrics.clustering import NormalizedMutualInfoScore

import prune_gym
from prune_gym.problem.find_task import _size
from prune_gym.tasks.metrics import Metric
from prune_gym.tasks.named_metrics import ACCURACY, METRICS, is_accuracy

SEGMENTER = trained("segmentation", 30)
REGRESSOR = trained("regression", 30)


def problem_of(job: str = "regression", **arguments):
    network = arguments.pop("network", SEGMENTER if job == "segmentation" else REGRESSOR)
    arguments = {"budgets": {"params": 0.5}, "recovery": "none", **splits(job), **arguments}
    return prune_gym.make_problem(network, **arguments)


# -- rewards ---------------------------------------------------------------------------------------


def test_the_reward_of_a_metric_with_two_ends():
    metric = Metric(max, "mcc", lowest=-1.0, highest=1.0)
    assert [metric.reward(x) for x in (-1.0, 0.0, 1.0, math.nan)] == [0.0, 0.5, 1.0, 0.0]
    flipped = Metric(max, "share", higher_is_better=False, lowest=0.0, highest=1.0)
    assert [flipped.reward(x) for x in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    for one in (metric, flipped):
        assert all(one.value(one.reward(x)) == pytest.approx(x) for x in (0.0, 0.3, 1.0))


def test_the_reward_of_an_error_is_in_its_scale():
    metric = Metric(max, "mae", higher_is_better=False, lowest=0.0).scaled(20.0)
    assert metric.scale == 20.0
    assert [metric.reward(x) for x in (0.0, 20.0, 60.0, math.inf)] == [1.0, 0.5, 0.25, 0.0]
    assert metric.value(0.25) == pytest.approx(60.0)
    r2 = Metric(max, "r2", highest=1.0, scale=1.0)
    assert [r2.reward(x) for x in (1.0, 0.0, -1.0)] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert r2.value(r2.reward(-3.0)) == pytest.approx(-3.0)


def test_the_reward_of_a_metric_without_ends():
    assert Metric(max, "score").reward(-3.5) == -3.5
    assert Metric(max, "loss", higher_is_better=False, scale=2.0).reward(3.0) == -1.5
    with pytest.raises(prune_gym.MetricError, match=r"'score' is nan of a pruned.*highest=\.\.\."):
        Metric(max, "score").reward(math.nan)


def test_a_number_beyond_the_ends_is_named():
    with pytest.raises(prune_gym.MetricError, match=r"'share' is 519.7, but .* between 0.0 and 1"):
        Metric(max, "share", lowest=0.0, highest=1.0).reward(519.7)


def test_a_torchmetrics_metric_says_its_direction_itself():
    metric = Metric(torchmetrics.MeanAbsoluteError())
    assert (metric.name, metric.higher_is_better, metric.lowest) == ("MeanAbsoluteError", False, 0)


def test_what_lies_beyond_the_worst_end_counts_as_it_but_not_of_the_unpruned_network():
    kappa = Metric(torchmetrics.CohenKappa("binary"))
    assert (kappa.lowest, kappa.highest, kappa.reward(-0.3)) == (0.0, 1.0, 0.0)
    error = Metric(max, "wer", higher_is_better=False, lowest=0.0, highest=1.0)
    assert error.reward(1.7) == 0.0
    for metric, number in ((kappa, -0.3), (error, 1.7)):
        with pytest.raises(prune_gym.MetricError, match=r"lowest=-math.inf\), or highest=math.inf"):
            metric.check(number)
    free = Metric(torchmetrics.CohenKappa("binary"), lowest=-math.inf, scale=1.0)
    assert (free.lowest, free.reward(-1.0)) == (None, pytest.approx(1 / 3))


def test_a_search_goes_on_below_the_end_that_torchmetrics_draws():
    problem = problem_of(metric=torchmetrics.ExplainedVariance(), loss="mse")
    smallest = problem.evaluate(problem.masks_of(np.ones(len(problem.groups), dtype=int)))
    assert 0.0 <= smallest.accuracy < 0.5 < problem.accuracy(problem.network)


def test_a_torchmetrics_metric_without_a_direction_is_asked_for_it():
    measure = torchmetrics.classification.BinaryEER()
    with pytest.raises(ValueError, match=r"BinaryEER does not say whether .*higher_is_better=True"):
        Metric(measure)
    assert Metric(measure, higher_is_better=False).higher_is_better is False
    both = torchmetrics.MetricCollection([torchmetrics.MeanAbsoluteError()])
    assert Metric(both, key="MeanAbsoluteError").higher_is_better is False


def test_ends_that_torchmetrics_draws_on_each_other_are_none():
    measure = NormalizedMutualInfoScore()
    assert measure.plot_lower_bound == measure.plot_upper_bound == 0.0
    assert Metric(measure, higher_is_better=True).ends == (None, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lowest": 1.0, "highest": 1.0}, r"lowest=1.0 must be below highest=1.0"),
        ({"lowest": 2, "highest": 1}, r"lowest=2 must be below highest=1"),
        ({"scale": "big"}, r"scale='big' must be a number"),
        ({"scale": 0.0}, r"scale=0.0 must be a finite number above 0"),
        ({"lowest": math.nan}, r"lowest=nan must be a number"),
        ({"highest": True}, r"highest=True must be a number"),
    ],
)
def test_ends_and_scales_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=rf"metric 'share': {message}"):
        Metric(max, "share", **given)


@pytest.mark.parametrize(
    "metric", ["mae", "mse", "rmse", "r2", torchmetrics.MeanSquaredError()], ids=str
)
def test_targets_may_be_columns_of_a_table(metric):
    given = splits("regression")
    columns = {
        name: (inputs, torch.cat([targets, targets], dim=1)[:, :2])
        for name, (inputs, targets) in given.items()
        if name != "test"
    }
    assert not columns["train"][1].is_contiguous()
    problem = prune_gym.make_problem(
        REGRESSOR, budgets={"params": 0.5}, recovery="none", metric=metric, loss="mse", **columns
    )
    assert problem.judge(problem.network) == pytest.approx(
        problem_of(metric=metric, loss="mse").judge(problem.network), rel=1e-4
    )


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_spreads_shapes_over_each_other_is_named():
    given = {n: (inputs, targets[:, 0]) for n, (inputs, targets) in splits("regression").items()}

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = REGRESSOR

        def forward(self, inputs):
            return self.inside(inputs)[:, :1]

    with pytest.raises(prune_gym.LossError, match=r"MSELoss.* would hold every output against"):
        prune_gym.make_problem(
            One().eval(), budgets={"params": 0.5}, metric="mae", loss=nn.MSELoss(), **given
        )


@pytest.mark.parametrize("name", [n for n in METRICS if n in ("r2", "mae", "mse", "rmse")])
def test_named_metrics_of_numbers(name):
    problem = problem_of(metric=name)
    with torch.no_grad():
        outputs = REGRESSOR(problem.data.validation.images)
    targets = problem.data.validation.labels
    expected = {
        "mae": (outputs - targets).abs().mean(),
        "mse": ((outputs - targets) ** 2).mean(),
        "rmse": ((outputs - targets) ** 2).mean().sqrt(),
        "r2": (
            1 - ((outputs - targets) ** 2).sum(0) / ((targets - targets.mean(0)) ** 2).sum(0)
        ).mean(),
    }[name]
    assert problem.judge(problem.network) == pytest.approx(float(expected), rel=1e-3)
    assert problem.accuracy(problem.network) == pytest.approx(0.5, abs=0.01) or name == "r2"


def test_a_function_and_a_torchmetrics_metric_agree():
    def mae(outputs, targets):
        return (outputs - targets).abs().mean()

    own = problem_of(metric=prune_gym.Metric(mae, higher_is_better=False, lowest=0.0))
    theirs = problem_of(metric=torchmetrics.MeanAbsoluteError())
    masks = own.masks_of(own.sizes // 2)
    assert own.evaluate(masks).accuracy == pytest.approx(theirs.evaluate(masks).accuracy, rel=1e-4)
    assert own.task.metric.name == "mae"


# -- what is named ---------------------------------------------------------------------------------


def raises(outputs, targets):
    raise KeyError("gone")


def order(outputs, targets):
    return (outputs[0] - targets[0]).abs().sum()


def bias(outputs, targets):
    return (outputs - targets).mean()


def small_order(outputs, targets):
    return order(outputs, targets) * 1e-5


METRICS_REFUSED = {
    "raises": (raises, r"metric 'raises' raised KeyError: 'gone' \(.*test_own_metrics\.py:\d+\)"),
    "nan": (lambda o, t: float("nan"), r"of the unpruned network on the validation split is nan"),
    "several": (
        lambda o, t: (o - t).abs(),
        r"gives \(80, 2\)|gives \(64, 2\); expected one number",
    ),
    "words": (lambda o, t: "good", r"gives 'good'; expected one number"),
    "dict": (
        torchmetrics.MetricCollection([torchmetrics.MeanAbsoluteError()]),
        r"gives several numbers: MeanAbsoluteError; name the one",
    ),
    "order": (order, r"metric 'order' depends on the order of the examples"),
    "small order": (small_order, r"metric 'small_order' depends on the order of the examples"),
    "unknown": ("mean_io", r"unknown metric 'mean_io'\. Did you mean 'mean_iou'"),
    "kind": (3, r"metric=3: expected a name \(accuracy, .*a torchmetrics\.Metric"),
    "misfit": ("mean_iou", r"metric 'mean_iou': outputs are \(64, 2\) and targets \(64, 2\); exp"),
    "ends": (
        prune_gym.Metric(lambda o, t: 519.7, "share", lowest=0.0, highest=1.0),
        r"'share' is 519\.7, but it is said to lie between",
    ),
}


@pytest.mark.parametrize("case", METRICS_REFUSED)
def test_a_metric_that_cannot_be_is_named(case):
    metric, message = METRICS_REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        problem_of(metric=metric)


def test_the_size_of_a_metric_whose_parts_cancel_out_is_that_of_its_parts():
    halves = [(torch.tensor(part), torch.zeros(2)) for part in ([1.0, 2.0], [-1.0, -2.0])]
    assert _size(Metric(bias), 0.0, halves) == 1.5
    assert _size(Metric(raises), 0.25, halves) == 0.25
    tiny = prune_gym.Metric(lambda o, t: bias(o, t) * 1e-9, "tiny")
    assert problem_of(metric=tiny, loss="mse").task.metric is tiny


LOSSES_REFUSED = {
    "no gradient": (lambda o, t: torch.tensor(1.0), r"has no gradient: nothing of the network's"),
    "detached": (lambda o, t: (o.detach() - t).mean(), r"has no gradient"),
    "zero": (lambda o, t: (o * 0).sum(), r"has a gradient of 0 everywhere"),
    "nan": (lambda o, t: o.sum() * float("nan"), r"of the unpruned network is nan"),
    "several": (lambda o, t: (o - t) ** 2, r"gives \(64, 2\); expected one number"),
    "number": (lambda o, t: 3.0, r"gives 3\.0; expected one number, as a tensor"),
    "raises": (raises, r"loss 'raises' raised KeyError"),
    "unknown": ("msee", r"unknown loss 'msee'\. Did you mean 'mse'"),
    "misfit": ("cross_entropy", r"outputs are \(64, 2\) and targets \(64, 2\); expected outputs"),
}


@pytest.mark.parametrize("case", LOSSES_REFUSED)
def test_a_loss_that_cannot_be_is_named(case):
    loss, message = LOSSES_REFUSED[case]
    with pytest.raises(ValueError, match=message):
        problem_of(metric="mae", loss=loss)


def test_a_loss_of_ones_own_is_learned_from():
    module = nn.SmoothL1Loss()
    problem = problem_of(metric="mae", loss=module, recovery="finetune", recovery_steps=4)
    masks = problem.masks_of(problem.sizes // 2)
    before, after = problem.compact(masks), problem.evaluate(masks).network
    assert not torch.equal(before.head.weight, after.head.weight)


def test_a_metric_without_a_loss_judges_but_does_not_train():
    def spread(outputs, targets):
        return -(outputs - targets).abs().max()

    problem = problem_of(metric=spread)
    result = prune_gym.search(problem, "random", evaluations=3)
    with pytest.raises(prune_gym.LossError, match=r"metric 'spread' tells no loss, .*loss='mse'"):
        result.best.fine_tune(1)


# -- targets and outputs that do not fit -----------------------------------------------------------


def test_dense_outputs_with_one_label_an_image_are_refused():
    class Dense(nn.Sequential):
        pass

    network = Dense(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    data = (torch.randn(32, 1, 32, 32), torch.arange(32) % 2)
    message = r"Dense gives outputs of shape \(1, 2, 32, 32\) for one image, .*metric='mean_iou'"
    with pytest.raises(ValueError, match=message):
        prune_gym.make_problem(network, train=data, validation=data)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_is_refused(label):
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 2))
    images = torch.randn(32, 1, 8, 8)
    same, both = (images, torch.full((32,), label)), (images, torch.arange(32) % 2)
    for name, splits_ in (("train", (same, same)), ("validation", (both, same))):
        message = rf"{name}: every target is {label}: any network that says so always is right"
        with pytest.raises(ValueError, match=message):
            prune_gym.make_problem(network, train=splits_[0], validation=splits_[1])


def test_masks_of_one_class_are_refused():
    data = splits("segmentation")
    empty = (data["train"][0], torch.zeros_like(data["train"][1]))
    with pytest.raises(ValueError, match=r"validation: every target is 0"):
        problem_of("segmentation", metric="mean_iou", output="out", validation=empty)


def test_places_that_do_not_count_are_named_with_what_leaves_them_out():
    data = {
        name: (images, masks.clone()) for name, (images, masks) in splits("segmentation").items()
    }
    for _, masks in data.values():
        masks[:, :2] = 255
    message = (
        r"targets hold 255, but outputs tell 2 classes .*Index\(2, average='macro', ignore_ind"
    )
    with pytest.raises(ValueError, match=message):
        problem_of("segmentation", metric="mean_iou", output="out", **data)
    measure = torchmetrics.classification.MulticlassJaccardIndex(2, ignore_index=255)
    loss = nn.CrossEntropyLoss(ignore_index=255)
    problem = problem_of("segmentation", metric=measure, loss=loss, output="out", **data)
    assert problem.judge(problem.network) > 0.5


def test_one_output_for_each_place():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = SEGMENTER

        def forward(self, images):
            two = self.inner(images)["out"]
            return two[:, 1:] - two[:, :1]

    problem = problem_of("segmentation", network=Single(), metric="binary_iou")
    outputs = Single()(problem.data.validation.images)[:, 0] > 0
    masks = problem.data.validation.labels.bool()
    expected = (outputs & masks).sum() / (outputs | masks).sum()
    assert problem.judge(problem.network) == pytest.approx(float(expected), abs=1e-4)
    with pytest.raises(ValueError, match=r"a single one for each .* metric='binary_accuracy'"):
        problem_of("segmentation", network=Single(), metric="mean_iou")


def test_a_part_of_the_outputs_that_is_not_there():
    with pytest.raises(ValueError, match=r"output='aut': the network gives \{'out': \(64, 2, 16"):
        problem_of("segmentation", metric="mean_iou", output="aut")
    with pytest.raises(ValueError, match=r"takes one tensor, .*'aux'.*that counts, output='out'"):
        problem_of("segmentation", metric="mean_iou")
    with pytest.raises(ValueError, match=r"output=0: the network gives one tensor, \(64, 2\)"):
        problem_of(metric="mae", output=0)


@dataclass
class Given:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class GivenDict(dict):
    def __init__(self, **parts):
        super().__init__(parts)
        vars(self).update(parts)


@pytest.mark.parametrize("kind", [Given, namedtuple("Pair", "logits hidden"), GivenDict])
def test_outputs_of_any_kind(kind):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = REGRESSOR

        def forward(self, signals):
            return kind(logits=self.inner(signals), hidden=signals.mean(2))

    def error(outputs, targets):
        return (outputs.logits - targets).abs().mean()

    picked = problem_of(network=Wrapped(), metric="mae", output="logits")
    whole = problem_of(
        network=Wrapped(), metric=Metric(error, higher_is_better=False, lowest=0.0), batch_size=32
    )
    assert whole.judge(whole.network) == pytest.approx(picked.judge(picked.network), rel=1e-4)
    with pytest.raises(ValueError, match=r"metric 'mae' takes one tensor, .*output='out'"):
        problem_of(network=Wrapped(), metric="mae")


def test_classes_are_made_instances_of():
    problem = problem_of(metric=torchmetrics.MeanAbsoluteError, loss="torch.nn:SmoothL1Loss")
    assert problem.task.metric.name == "MeanAbsoluteError"
    assert isinstance(problem.task.loss, nn.SmoothL1Loss)
    message = r"metric=MulticlassF1Score is a class that cannot be made without arguments \(Type"
    with pytest.raises(TypeError, match=message):
        problem_of(metric="torchmetrics.classification:MulticlassF1Score")


def test_types_that_differ_are_named():
    data = splits("regression")
    doubled = {name: (inputs.double(), targets) for name, (inputs, targets) in data.items()}
    message = r"Its parameters are torch\.float32, but its inputs hold torch\.float64: make them"
    with pytest.raises(ValueError, match=message):
        prune_gym.make_problem(REGRESSOR, metric="mae", **doubled)
    network = trained("regression", 0).double()
    problem = prune_gym.make_problem(network, metric="mae", budgets={"params": 0.5}, **doubled)
    assert problem.example.dtype == torch.float64
    assert prune_gym.search(problem, "random", evaluations=2).best.fine_tune(2).test_accuracy > 0


def test_accuracy_is_known_in_every_process():
    """Networks race, and are judged as fast, in workers as well."""
    assert is_accuracy(pickle.loads(pickle.dumps(ACCURACY)))
    assert not is_accuracy(Metric(max, "accuracy"))


def test_networks_of_another_process_race(default_problem):
    again = pickle.loads(pickle.dumps(default_problem.task))
    split = replace(default_problem.evaluator.validation, task=again, batch_size=60)
    assert split.race is not None
