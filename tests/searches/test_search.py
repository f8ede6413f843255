"""`prune_gym.search`: a search from Python, with a folder and without."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

import prune_gym
from prune_gym import Budget, load_pruned, search
from prune_gym.errors import (
    BudgetError,
    FileError,
    InvalidTypeError,
    InvalidValueError,
    NothingFeasibleError,
    RunFolderError,
    UnknownNameError,
)
from prune_gym.searches.run_folder import RunFolder
from prune_gym.utils.files import write_json


@pytest.fixture
def found(tiny_problem):
    return search(tiny_problem, "random", evaluations=40, seed=3)


def test_a_search_needs_no_folder(found, tiny_problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = search(tiny_problem, "random", evaluations=40, seed=3)
    assert list(tmp_path.iterdir()) == []
    assert len(again) == 40
    np.testing.assert_array_equal(again.networks, found.networks)
    assert repr(found).startswith("SearchResult(random, 40 networks, best feasible 0.")


def test_the_result_is_what_was_judged(found, tiny_problem):
    rows = found.networks
    assert rows.shape == (40,)
    assert rows["kept"].shape == (40, len(tiny_problem.groups))
    best = found.best
    assert rows["feasible"].any()
    assert best.validation_accuracy == rows["accuracy"][rows["feasible"]].max()
    assert rows["accuracy"][best.number - 1] == best.validation_accuracy
    assert found.outcome.accuracy == tiny_problem.accuracy(found.network)
    assert best.costs["params"] <= tiny_problem.limits[0]
    kept = [mask.mean() for mask in found.masks]
    np.testing.assert_allclose(rows["kept"][best.number - 1], kept, rtol=1e-6)
    accuracies = [one.accuracy for one in found.front]
    assert max(accuracies) == rows["accuracy"].max()


@pytest.mark.parametrize("algo", ["random", "ppo_lag", "sac_lag"])
def test_with_a_folder_it_is_the_same_search(tiny_problem, tmp_path, algo):
    without = search(tiny_problem, algo, evaluations=20, seed=1)
    within = search(tiny_problem, algo, evaluations=20, seed=1, out=tmp_path / "run")
    np.testing.assert_array_equal(without.networks, within.networks)
    folder, config = RunFolder.open(tmp_path / "run")
    assert len(folder.read_episodes()) == 20
    assert config.algo == algo
    state = load_pruned(tmp_path / "run", tiny_problem.network).state_dict()
    for name, tensor in within.network.state_dict().items():
        torch.testing.assert_close(state[name], tensor)


@pytest.mark.parametrize("algo", ["random", "ppo_lag", "sac_lag"])
def test_a_stopped_search_goes_on_to_what_was_asked(tiny_problem, tmp_path, algo):
    def interrupt(progress):
        if progress.evaluations == 9:
            os.kill(os.getpid(), signal.SIGINT)

    first = search(tiny_problem, algo, evaluations=30, out=tmp_path / "run", on_progress=interrupt)
    assert first.stopped
    assert 9 <= len(first) < 30
    again = search(tiny_problem, algo, evaluations=30, out=tmp_path / "run", resume=True)
    assert not again.stopped
    assert len(again) == 30
    for name in ("accuracy", "cost", "feasible", "costs"):
        expected = first.networks[name]
        np.testing.assert_array_equal(again.networks[name][: len(first)], expected)
    kept = again.networks["kept"][: len(first)]
    np.testing.assert_allclose(kept, first.networks["kept"], rtol=1e-5)  # six digits in the log


@pytest.mark.parametrize("algo", ["ppo_lag", "sac_lag"])
def test_a_lengthened_search_judges_every_network_that_was_asked(tiny_problem, tmp_path, algo):
    search(tiny_problem, algo, evaluations=9, out=tmp_path / "run")
    for asked in (12, 16):  # no multiples of the environments that work side by side
        again = search(tiny_problem, algo, evaluations=asked, out=tmp_path / "run", resume=True)
        assert len(again) == asked


def test_an_interrupt_at_once_gives_back_what_was_found(tiny_problem):
    def interrupt(progress):
        if progress.evaluations == 5:
            raise KeyboardInterrupt

    result = search(tiny_problem, "random", evaluations=30, on_progress=interrupt)
    assert result.stopped
    assert len(result) == 5
    assert "stopped" in repr(result)


def test_progress(tiny_problem):
    told = []
    search(tiny_problem, "cem", evaluations=12, on_progress=told.append)
    assert [one.evaluations for one in told] == list(range(1, 13))
    assert {one.total for one in told} == {12}
    assert {one.cost_limit for one in told} == {tiny_problem.cost_limit}
    bests = [one.best_accuracy or 0.0 for one in told]
    assert bests == sorted(bests)


def test_pick_answers_for_other_limits(found, tiny_problem):
    limit = float(np.sort(found.networks["cost"])[8])
    picked = found.pick({"params": limit})
    rows = found.networks
    assert picked.costs["params"] <= limit
    assert picked.validation_accuracy == rows["accuracy"][rows["cost"] <= limit].max()
    assert found.pick({"macs": "100%"}).validation_accuracy == rows["accuracy"].max()
    amount = f"{limit * tiny_problem.unpruned_values[0]:.0f}"
    assert found.pick({"params": amount}).costs["params"] <= limit * 1.001
    with pytest.raises(NothingFeasibleError, match="no evaluated network is within params 1e-06"):
        found.pick({"params": 1e-6})
    with pytest.raises(InvalidValueError, match=r"limits=\{\}: expected limits by budget"):
        found.pick({})
    with pytest.raises(ValueError, match="the limit of 'params' is 3"):
        found.pick({"params": 3})
    with pytest.raises(ValueError, match="of those whose cost was kept"):
        found.pick({Budget("other", lambda network: 1.0): 0.5})


def test_fine_tuning_leaves_the_found_network_as_it_is(found, tmp_path):
    before = tiny.snapshot(found.network)
    losses = []
    tuned = found.fine_tune(5, seed=1, on_step=lambda step, loss: losses.append(loss))
    assert len(losses) == 5
    tiny.assert_unchanged(found.network, before)
    assert tuned.network is not found.network
    assert tuned.validation_accuracy == found.problem.accuracy(tuned.network)
    assert tuned.test_accuracy is None  # there is no test split
    tuned.save(tmp_path / "tuned")
    loaded = load_pruned(tmp_path / "tuned", found.problem.network)
    images = tiny.images_of(4)
    torch.testing.assert_close(loaded(images), tuned.network(images))
    found.save(tmp_path / "found")
    loaded = load_pruned(tmp_path / "found", found.problem.network)
    torch.testing.assert_close(loaded(images), found.network(images))


def test_nothing_feasible_is_said_when_it_is_asked_for(tiny_problem):
    def stop(progress):
        raise KeyboardInterrupt

    problem = tiny.make_tiny(budgets={"params": 0.06})
    result = search(problem, "uniform", evaluations=3, on_progress=stop)
    assert not result.feasible
    with pytest.raises(NothingFeasibleError, match="none of 1 evaluated networks meets every"):
        result.network  # noqa: B018


def test_a_named_problem_can_be_gone_on_with_from_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = prune_gym.make_problem(budgets={"params": 0.2}, evaluation_samples=50)
    search(problem, "random", evaluations=8, out="run", finetune_steps=2)
    said = tiny.call("prune", "--resume", "run", "--timesteps", "96")
    assert "12 networks evaluated" in said
    assert RunFolder.open("run")[1].problem["unpruned_values"]["params"] == 579_498


def test_an_object_is_gone_on_with_from_python_only(tiny_problem, tmp_path):
    search(tiny_problem, "random", evaluations=4, out=tmp_path / "run")
    said = tiny.call("prune", "--resume", str(tmp_path / "run"), code=2)
    assert "begun from Python with an object" in said
    assert "prune_gym.search(problem, out=..., resume=True)" in said


def test_a_budget_that_breaks_keeps_what_was_judged(tmp_path):
    calls = []

    def breaks(network):
        calls.append(network)
        if len(calls) > 12:
            raise RuntimeError("out of order")
        return sum(p.numel() for p in network.parameters())

    problem = tiny.make_tiny(budgets={Budget("breaks", breaks): 0.9})
    with pytest.raises(BudgetError, match="budget 'breaks' raised RuntimeError: out of order"):
        search(problem, "random", evaluations=30, out=tmp_path / "run")
    assert len(RunFolder.open(tmp_path / "run")[0].read_episodes()) > 3


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"algo": "ppo_lagg"}, UnknownNameError, "unknown algorithm 'ppo_lagg'. Did you mean 'ppo"),
        ({"evaluations": 0}, InvalidValueError, "evaluations=0 must be a whole number of at least"),
        ({"seed": -1}, InvalidValueError, "seed=-1 must be a whole number of at least 0"),
        ({"granularity": "layers"}, UnknownNameError, "unknown granularity 'layers'"),
        ({"resume": True}, InvalidValueError, "resume=True goes on with a run folder; name it"),
        ({"problem": "small"}, InvalidTypeError, "problem='small': expected a PruningProblem"),
    ],
)
def test_wrong_arguments_are_named(tiny_problem, arguments, kind, words):
    with pytest.raises(kind, match=words):
        search(**{"problem": tiny_problem, **arguments})


def test_a_taken_folder_is_refused(tiny_problem, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="holds other files; choose another folder"):
        search(tiny_problem, "random", evaluations=4, out=tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"budgets": {"params": 0.2}}, "its limits were {'params': 0.3}, those of the problem are"),
        ({"budgets": {"macs": 0.5}}, "its limits were {'params': 0.3}"),
        ({"network": "residual"}, "its groups were"),
    ],
)
def test_another_problem_is_no_way_to_go_on(tmp_path, other, words):
    search(tiny.make_tiny(budgets={"params": 0.3}), "random", evaluations=4, out=tmp_path / "run")
    rows = RunFolder.open(tmp_path / "run")[0].read_episodes()
    other = tiny.make_tiny(**{"budgets": {"params": 0.3}, **other})
    with pytest.raises(RunFolderError, match=words):
        search(other, evaluations=8, out=tmp_path / "run", resume=True)
    assert RunFolder.open(tmp_path / "run")[0].read_episodes() == rows


def test_another_criterion_is_another_problem(tmp_path):
    given = {"budgets": {"params": 0.3}, "evaluation_samples": 20}
    search(prune_gym.make_problem(**given), "random", evaluations=2, out=tmp_path / "run")
    other = prune_gym.make_problem(**given, criterion="l2")
    with pytest.raises(RunFolderError, match="its criterion was 'l1', that of the problem is 'l2'"):
        search(other, evaluations=4, out=tmp_path / "run", resume=True)


def test_a_longer_search_is_written_down(tiny_problem, tmp_path):
    search(tiny_problem, "random", evaluations=4, out=tmp_path / "run")
    search(tiny_problem, evaluations=6, out=tmp_path / "run", resume=True)
    assert RunFolder.open(tmp_path / "run")[1].timesteps == 6 * len(tiny_problem.groups)
    search(tiny_problem, "uniform", evaluations=4, out=tmp_path / "grid")
    with pytest.raises(InvalidValueError, match="cannot change for algo='uniform': it would be"):
        search(tiny_problem, evaluations=6, out=tmp_path / "grid", resume=True)


def test_a_folder_that_cannot_be_made_is_named(tiny_problem, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file.run cannot be written .*; give another folder"):
        search(tiny_problem, "random", evaluations=4, out=tmp_path / "file" / "run")


def test_shares_and_steps_are_checked_at_the_door(found, tiny_problem):
    with pytest.raises(InvalidValueError, match=r"distillation=2 must be a number in \[0, 1\]"):
        found.fine_tune(2, distillation=2)
    with pytest.raises(InvalidValueError, match="steps=-1 must be a whole number of at least 0"):
        found.fine_tune(-1)
    with pytest.raises(InvalidValueError, match=r"distillation=5.0 must be a number in \[0, 1\]"):
        search(tiny_problem, distillation=5.0)


def test_a_run_goes_on_only_where_its_budgets_were_measured(tmp_path):
    search(tiny.make_tiny(), "random", evaluations=8, out=tmp_path / "run")
    folder, config = RunFolder.open(tmp_path / "run")
    write_json(folder.path / "config.json", replace(config, measure_on="phone").to_json())
    assert folder.resume_command.endswith(" --workers 1 --measure-on phone")
    with pytest.raises(ValueError, match=r"machine with 'phone'.*--workers N --measure-on phone"):
        search(tiny.make_tiny(), evaluations=16, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("algo", ["ppo_lag", "evolution", "pretrained"])
def test_fewer_evaluations_than_were_judged_judge_none(tmp_path, algo):
    problem = tiny.make_tiny(budgets={"params": 0.5})
    stopped = search(problem, algo, evaluations=40, out=tmp_path / "r", on_progress=stop_at(4))
    again = search(problem, algo, evaluations=2, out=tmp_path / "r", resume=True)
    assert 4 <= len(stopped) < 40
    assert len(again) == len(stopped)


def stop_at(n):
    """Ctrl-C after so many networks."""

    def on_progress(progress):
        if progress.evaluations == n:
            os.kill(os.getpid(), signal.SIGINT)

    return on_progress


def test_the_policy_is_played_first_also_where_the_search_was_begun_with_one_network(tmp_path):
    problem = tiny.make_tiny(budgets={"params": 0.5})
    search(problem, "pretrained", evaluations=1, out=tmp_path / "r")
    again = search(problem, "pretrained", evaluations=3, out=tmp_path / "r", resume=True)
    whole = search(problem, "pretrained", evaluations=3)
    assert again.networks["cost"][1] <= 0.5
    assert len(again) == len(whole) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"granularity": "filter"}, "PruneFilters-v1|layer by layer"),
        ({"hard": True}, "'pretrained' with hard"),
    ],
)
def test_the_policy_is_refused_before_anything_is_judged(tiny_problem, tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        search(tiny_problem, "pretrained", evaluations=9, out=tmp_path / "r", **arguments)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", ["hard", "racing"])
def test_flags_are_true_or_false(tiny_problem, name):
    with pytest.raises(TypeError, match=f"{name}='no': expected True or False"):
        search(tiny_problem, evaluations=9, **{name: "no"})


def test_a_run_with_the_default_limit_is_saved_and_goes_on(tmp_path):
    problem = prune_gym.make_problem()
    for resume in (False, True):
        search(problem, "lamp", evaluations=1, out=tmp_path / "run", resume=resume)
    assert RunFolder.open(tmp_path / "run")[1].problem["budgets"] == {"params": 0.1}
