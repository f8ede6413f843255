"""Rounds: searches in a row, each in what the one before left, and one network of them all."""

from __future__ import annotations

import json
import os
import re
import signal

import numpy as np
import pytest
import tiny
import torch

import prune_gym
from prune_gym.errors import ClusterError, InvalidValueError, RunFolderError
from prune_gym.searches import fine_tuning
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.rounds import search_in_rounds
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.several import Trainer
from prune_gym.utils.stopping import Stopped

posix = pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to one process")
ASKED = {"algo": "evolution", "evaluations": 13, "finetune_steps": 5}


def pruned(out, rounds=2, **other):
    """A network that was pruned in rounds, of the small VGG."""
    problem = {"network": tiny.build("vgg"), "dataset": tiny.cli_dataset()}
    return search_in_rounds(
        rounds, out, **{"budgets": {"params": 0.4}, **problem, **ASKED, **other}
    )


def test_the_network_is_the_unpruned_ones_within_its_limits(tmp_path):
    found = pruned(tmp_path / "run")
    run = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = run["rounds"]
    assert found.costs["params"] == run["costs"]["params"] <= 0.4
    assert [row["evaluations"] for row in rows] == [7, 6]
    assert [row["finetune_steps"] for row in rows] == [3, 2]
    assert (run["evaluations"], run["finetune_steps"]) == (13, 5)
    assert rows[0]["limits"]["params"] == pytest.approx(0.4**0.5)
    assert rows[0]["costs"]["params"] * rows[1]["limits"]["params"] == pytest.approx(0.4)
    whole = prune_gym.count("params", found.problem.network, found.problem.example)
    assert prune_gym.count("params", found.network, found.problem.example) <= 0.4 * whole
    assert run["accuracy"]["finetuned_validation"] == found.validation_accuracy
    assert found.problem.judge(found.network) == found.validation_accuracy
    # shapes of what its masks keep of the unpruned network, weights of its own
    expected = found.problem.compact(found.masks).state_dict()
    state = found.network.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    loaded = prune_gym.load_pruned(tmp_path / "run", found.problem.network).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.items())


def test_each_round_keeps_of_what_the_one_before_kept(tmp_path):
    found = pruned(tmp_path / "run", rounds=3, evaluations=9, finetune_steps=3)
    plans = [
        json.loads((tmp_path / "run" / f"round-{number}" / "plan.json").read_text())["groups"]
        for number in (1, 2, 3)
    ]
    for group, mask in enumerate(found.masks):
        rows = np.arange(len(mask))
        for plan in plans:
            assert plan[group]["filters"] == len(rows)
            rows = rows[plan[group]["kept"]]
        assert np.flatnonzero(mask).tolist() == rows.tolist()


def test_each_round_takes_the_best_of_its_candidates(tmp_path):
    found = pruned(tmp_path / "run", candidates=2, ema=0.5, evaluations=30)
    plain = pruned(tmp_path / "plain", candidates=2, evaluations=30).network.state_dict()
    assert not all(torch.equal(one, plain[n]) for n, one in found.network.state_dict().items())
    run = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [row["candidates"] for row in run["rounds"]] == [2, 2]
    assert (run["candidates"], run["ema"], run["finetune_steps"]) == (2, 0.5, 5)
    assert found.costs["params"] == run["costs"]["params"] <= 0.4


@posix
@pytest.mark.parametrize("moment", ["a search", "a fine-tuning"])
def test_the_same_call_goes_on(moment, tmp_path, monkeypatch):
    expected = pruned(tmp_path / "whole")
    step, calls = fine_tuning.Training.step, []

    def stopped(self):
        calls.append(1)
        if len(calls) == 4:  # of the second round
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    def show(number, search):
        def stop(progress):
            if number == 2 and progress.evaluations == 3:
                os.kill(os.getpid(), signal.SIGINT)

        search.on_progress = stop
        return lambda: Trainer(lambda step, loss: None)

    with monkeypatch.context() as patch:
        if moment == "a fine-tuning":
            patch.setattr(fine_tuning.Training, "step", stopped)
        else:
            patch.setattr("prune_gym.searches.rounds._silent", show)
        with pytest.raises(Stopped):
            pruned(tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()
    found = pruned(tmp_path / "run")
    state = expected.network.state_dict()
    for name, tensor in found.network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert pruned(tmp_path / "run").costs == found.costs  # it is over, and stays as it is
    with pytest.raises(InvalidValueError, match=r"other settings \(seed\); give the same"):
        pruned(tmp_path / "run", seed=1)
    with pytest.raises(RunFolderError, match=r"is one of 2 rounds: the same call of .*in_rounds"):
        prune_gym.search(found.problem, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rounds": 0}, "rounds=0 must be a whole number of at least 2 and at most 100"),
        ({"finetune_steps": 0}, "finetune_steps=0 is too few for rounds=2: .*give at least 2"),
        ({"evaluations": 1}, "evaluations=1 is too few for rounds=2: .*give at least 2"),
        ({"structure": "weight"}, "rounds=2 goes with structure='filter' only"),
        ({"candidates": 0}, "candidates=0 must be a whole number of at least 1"),
        ({"ema": 1}, "ema=1 must be a number of at least 0, below 1"),
    ],
)
def test_what_no_rounds_can_be_is_refused(given, words, tmp_path):
    with pytest.raises(InvalidValueError, match=words):
        pruned(tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_rounds_go_on_only_where_their_budgets_were_measured(tmp_path):
    arguments = {"budgets": {"params": 0.4}, "network": "small"}
    problem = prune_gym.make_problem(**arguments)
    config = SearchConfig("PruneVGG-v1", "lamp", 16, 0, 2, {}, rounds=2, measure_on="phone")
    run = RunFolder.create(tmp_path / "run", config.of(problem))
    assert run.resume_command.endswith(" --workers 1 --measure-on phone")
    with pytest.raises(InvalidValueError, match="machine with 'phone', and differ elsewhere"):
        search_in_rounds(2, run.path, "lamp", evaluations=2, finetune_steps=2, **arguments)
    said = tiny.call("prune", "--resume", run.path, code=2)
    assert "go on with --workers N --measure-on phone" in said


def test_workers_measure_no_budget_side_by_side(tmp_path):
    noisy = prune_gym.Budget("noisy", lambda network: sum(map(torch.numel, network.parameters())))
    asked = {"budgets": {noisy: 0.9}, "workers": 1}
    with pytest.raises(ClusterError, match="'noisy' may differ from machine to machine"):
        pruned(tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


# -- the command -----------------------------------------------------------------------------------


def options_in(folder):
    """Two rounds of the small VGG, on the command line."""
    weights = folder / "vgg.safetensors"
    prune_gym.networks.checkpoints.save_weights(tiny.build("vgg"), weights)
    options = ["--network", "tiny:cli_network", "--dataset", "tiny:cli_dataset"]
    options += ["--weights", weights, "--algo", "evolution", "--budget", "params=0.4"]
    return [*options, "--finetune-steps", 5, "--rounds", 2, "--ema", 0.5, "--out", folder / "run"]


@posix
def test_the_command_prunes_in_rounds_and_goes_on(tmp_path, monkeypatch):
    options, run = [*options_in(tmp_path), "--evaluations", 12], tmp_path / "run"
    step, calls = fine_tuning.Training.step, []

    def stopped(self):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning.Training, "step", stopped)
        said = tiny.call("prune", *options, code=130)
    assert "round 2 of 2: at most params 0." in said
    assert "round 1 left accuracy 0." in said
    assert "stopped in round 2 of 2; what was done is kept." in said
    assert f"go on: prune-gym prune --resume {run} --trust" in said
    assert "1 of 2 done" in tiny.call("inspect", run)
    said = tiny.call("prune", "--resume", run, "--finish", "--trust", code=2)
    assert "was begun with --rounds 2" in said
    said = tiny.call("prune", "--resume", run, "--trust")
    assert "round 1 of 2" not in said
    assert "12 networks evaluated" in said
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["feasible"], metrics["ema"], len(metrics["rounds"])) == (True, 0.5, 2)
    page = (run / "report.html").read_text()
    assert "<h2>Rounds</h2>" in page
    assert "params 0.6325 of what it began with" in page
    assert "within every limit" in tiny.call("evaluate", run, "--trust")
    assert "recovered in the last round" in page
    said = tiny.call("inspect", run)
    assert re.search("evaluated +12 networks, .* within the limits of their round", said)
    assert "what was left by then on tiny:cli_dataset" in tiny.call("inspect", run / "round-2")
    said = tiny.call("pick", run, "--trust", "--budget", "params=0.5", code=2)
    assert "was pruned in 2 rounds" in said
    for asked in (("prune", "--resume"), ("pick", "--budget", "params=0.9"), ("evaluate",)):
        said = tiny.call(*asked, run / "round-2", code=2)
        assert f"round-2 is one round of the run in {run}; give that folder" in said


def test_the_command_says_what_each_round_fine_tunes(tmp_path):
    options = [*options_in(tmp_path), "--evaluations", 30, "--candidates", 2]
    said = tiny.call("prune", *options)
    rounds = [said.index(f"round {number} of 2") for number in (1, 2)]
    trained = [found.start() for found in re.finditer("fine-tuning the 2 best networks", said)]
    assert rounds[0] < trained[0] < rounds[1] < trained[1]
    assert said.count("candidate 2 fine-tuned: validation accuracy") == 2
    page = (tmp_path / "run" / "report.html").read_text()
    assert "weights averaged (decay 0.5), the best of at most 2 candidates in each round" in page
