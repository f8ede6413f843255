"""``prune-gym prune --hard`` and ``prune-gym pick``: other answers out of one search."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from tiny import call

import prune_gym
from prune_gym.cli import pick as picking
from prune_gym.errors import RunFolderError
from prune_gym.networks.checkpoints import save_weights
from prune_gym.problem.archive import Front
from prune_gym.searches import finalize as finishing

SHRINKS = "tiny:CLI_SHRINKS"  # its name is "widest"


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list:
    weights = tmp_path_factory.mktemp("weights") / "vgg.safetensors"
    save_weights(tiny.build("vgg"), weights)
    names = ["--network", "tiny:cli_network", "--dataset", "tiny:cli_dataset"]
    return [*names, "--weights", weights, "--finetune-steps", 2, "--algo", "random"]


@pytest.fixture(scope="module")
def run(options, tmp_path_factory) -> Path:
    """A finished run, one of whose two budgets is a black box."""
    out = tmp_path_factory.mktemp("runs") / "run"
    limits = ["--budget", "params=0.5", "--budget", f"{SHRINKS}=0.9"]
    call("prune", *options, *limits, "--timesteps", 120, "--seed", 1, "--out", out)
    return out


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """The run, in a folder of the test."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


# -- pick ------------------------------------------------------------------------------------------


def test_the_same_limits_give_the_network_of_the_run(copy):
    said = call("pick", "--trust", copy, "--budget", "params=0.5", "--budget", f"{SHRINKS}=0.9")
    picked = copy / "picked-params=0.5,widest=0.9"
    ours, theirs = metrics_of(picked), metrics_of(copy)
    for key in ("costs", "limits", "accuracy", "pruned", "finetune_steps", "seed", "evaluations"):
        assert ours[key] == theirs[key], key
    assert ours["picked_from"] == str(copy)
    one, other = (prune_gym.load_pruned(path, trust=True) for path in (picked, copy))
    tiny.assert_unchanged(one, tiny.snapshot(other))
    assert f"prune_gym.load_pruned('{picked}', trust=True)" in said


@pytest.mark.parametrize(
    ("limits", "measured"),
    [({"params": 0.3}, True), ({"widest": 0.5}, True), ({"macs": 0.3}, False)],
    ids=str,
)
def test_other_limits(copy, tmp_path, limits, measured):
    before = {path: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    given = [word for n, x in limits.items() for word in ("--budget", f"{n}={x}")]
    out = tmp_path / "out"
    call("pick", "--trust", copy, *given, "--finetune-steps", 1, "--out", out)
    assert {path: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before
    metrics = metrics_of(out)
    assert (metrics["limits"], metrics["feasible"]) == (limits, True)
    assert all(metrics["costs"][name] <= limit for name, limit in limits.items())
    assert metrics["finetune_steps"] == 1
    rows = rows_of(copy)
    if measured:  # it is the best of all rows within the new limits
        (name, limit), *_ = limits.items()
        within = [float(row["accuracy"]) for row in rows if float(row[f"cost_{name}"]) <= limit]
        assert metrics["accuracy"]["recovered_validation"] == max(within)
    row = rows[metrics["picked_network"] - 1]
    assert metrics["accuracy"]["recovered_validation"] == float(row["accuracy"])
    assert "within every limit" in call("evaluate", "--trust", out)
    config = (out / "config.json").read_bytes()
    said = call("prune", "--trust", "--resume", out, "--timesteps", 999, code=2)
    assert (out / "config.json").read_bytes() == config
    assert "was picked from another run, it holds no search; resume that one." in said


@pytest.fixture
def over(monkeypatch):
    """How many times from now on a network is found to be over a limit when it is confirmed."""
    left = [0]

    def confirm(*arguments):
        left[0] -= 1
        found = really(*arguments)
        return replace(found, feasible=False) if left[0] >= 0 else found

    really = finishing.confirm
    monkeypatch.setattr(finishing, "confirm", confirm)
    return left


def test_what_noise_had_let_in_is_passed_over(copy, over):
    """The next networks of the front come in turn, as at the end of a search."""
    (one, *_) = Front.load(copy / "front.npz", RunFolderError)
    in_turn = [7, 3, 5, 2]
    front = Front(replace(one, number=n, accuracy=0.9 - i / 10) for i, n in enumerate(in_turn))
    front.save(copy / "front.npz")
    over[0] = 2
    said = call("pick", "--trust", copy, "--budget", f"{SHRINKS}=0.8")
    assert metrics_of(copy / "picked-widest=0.8")["picked_network"] == in_turn[2]
    assert [int(n) for n in re.findall(r"network (\d+): validation", said)] == in_turn[:3]


def test_nothing_that_was_tried_is_within(copy, over):
    (one, *_) = Front.load(copy / "front.npz", RunFolderError)
    Front(replace(one, number=number) for number in range(1, 30)).save(copy / "front.npz")
    before = sorted(copy.iterdir())
    over[0] = 99
    said = call("pick", "--trust", copy, "--budget", f"{SHRINKS}=0.8", code=1)
    assert "measured anew, the best network is over a limit" in said
    assert "so are the next 9 of the best" in said  # ten are measured, no more
    assert "No network was picked. Raise the limit, or search for it anew." in said
    assert "is kept in the run folder" not in said
    assert sorted(copy.iterdir()) == before


def test_what_is_certain_is_measured_later(copy):
    said = call("pick", "--trust", copy, "--budget", "activation_bytes=0.9", "--finetune-steps", 0)
    metrics = metrics_of(copy / "picked-activation_bytes=0.9")
    front = Front.load(copy / "front.npz", RunFolderError)
    assert f"measuring the {len(front)} networks of the front: activation_bytes" in said
    assert metrics["limits"] == {"activation_bytes": 0.9}
    assert 0.0 < metrics["costs"]["activation_bytes"] <= 0.9
    assert metrics["picked_network"] in [one.number for one in front]


def test_folders_are_named_as_they_should_be(copy):
    """Names of budgets may hold what separates folders; a folder of the user's is left alone."""
    out = copy.parent / "a:b" / "c"
    call("pick", "--trust", copy, "--budget", f"{SHRINKS}=0.8", "--finetune-steps", 0, "--out", out)
    assert metrics_of(out)["limits"] == {"widest": 0.8}
    named = picking._folder_name(["./a.sh", "m:f", "c\\d"], [0.5, "10%", "3"])
    assert named == "picked-..a.sh=0.5,m.f=10%,c.d=3"


def test_an_unfinished_run_is_enough(options, tmp_path):
    """Nothing met the limits of the run; what it evaluated still answers for others."""
    arguments = ["--budget", "params=0.056", "--timesteps", 30, "--out", tmp_path / "run"]
    call("prune", *options, *arguments, code=1)
    call("pick", "--trust", tmp_path / "run", "--budget", "params=0.6")
    assert metrics_of(tmp_path / "run" / "picked-params=0.6")["costs"]["params"] <= 0.6


@pytest.mark.parametrize(
    ("limits", "code", "message"),
    [
        (
            ["params=0.056"],
            1,
            "no evaluated network is within params 0.056. The nearest is network",
        ),
        (["params=0.001"], 2, "limit 0.001 is below the floor"),
        (["params=200%"], 2, "the limit of 'params' is 2.0; it must be a number in (0, 1]"),
        (["latency_ms=0.5"], 2, "--budget 'latency_ms': its cost was not kept of the networks"),
        (["latency_ms=0.5"], 2, "of this run. Known: params, widest,"),
        (["parms=0.5"], 2, "of this run. Did you mean 'params'? Known: params, widest,"),
        (["tiny:cli_lavish=0.5"], 2, "Known: params, widest,"),
        ([f"{SHRINKS}=0.5", "widest=0.6"], 2, "is given twice; give one limit for it."),
        (["params"], 2, "--budget 'params': expected NAME=LIMIT"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_limits_without_an_answer(copy, limits, code, message):
    before = sorted(copy.iterdir())
    words = [word for limit in limits for word in ("--budget", limit)]
    said = call("pick", "--trust", copy, *words, code=code)
    assert said.startswith("error: ")
    assert message in said
    assert sorted(copy.iterdir()) == before


def test_folders_without_an_answer(copy, tmp_path):
    assert "is no run folder" in call("pick", "--trust", tmp_path, "--budget", "params=0.5", code=2)
    taken = call("pick", "--trust", copy, "--budget", "params=0.5", "--out", copy, code=2)
    assert "holds a run already; choose another folder" in taken
    (copy / "front.npz").write_bytes(b"x")
    assert "front.npz is damaged" in call("pick", "--trust", copy, "--budget", "params=0.5", code=2)
    (copy / "front.npz").unlink()
    assert "holds no front.npz" in call("pick", "--trust", copy, "--budget", "params=0.5", code=2)


def test_a_run_of_an_object_has_no_answer(tiny_problem, tmp_path):
    prune_gym.search(tiny_problem, "random", evaluations=4, out=tmp_path / "run")
    said = call("pick", tmp_path / "run", "--budget", "params=0.5", code=2)
    assert "begun from Python with an object" in said


def test_ctrl_c_leaves_no_half_folder(copy, monkeypatch):
    def interrupted(problem, config, in_turn, *others):
        next(in_turn)
        raise KeyboardInterrupt

    monkeypatch.setattr(picking, "complete", interrupted)
    said = call("pick", "--trust", copy, "--budget", "params=0.3", code=130)
    assert not list(copy.glob("picked-*"))
    assert "network" in said


# -- hard ------------------------------------------------------------------------------------------


def test_hard(options, tmp_path):
    limits = ["--budget", "params=0.3", "--budget", "size_bytes=0.35", "--timesteps", 60]
    call("prune", *options, *limits, "--hard", "--out", tmp_path / "hard")
    call("prune", *options, *limits, "--out", tmp_path / "soft")
    for name, hard in (("hard", True), ("soft", False)):
        metrics, run = metrics_of(tmp_path / name), tmp_path / name
        assert metrics["hard"] is hard
        assert (metrics["infeasible_evaluations"] == 0) == hard
        assert metrics["infeasible_evaluations"] + metrics["feasible_evaluations"] == 20
        assert ("(hard: each one was kept there)" in (run / "report.html").read_text()) == hard
    run = tmp_path / "hard"
    assert json.loads((run / "config.json").read_text())["hard"] is True
    call("prune", "--trust", "--resume", run, "--timesteps", 90)
    assert all(row["feasible"] == "1" for row in rows_of(run))
    assert len(rows_of(run)) == 30
    ours = "each within the limits of the run (--hard)"
    assert ours in " ".join(call("prune", "--trust", "--resume", run).split())
    picked = call("pick", "--trust", run, "--budget", "params=0.25")
    assert "networks evaluated" in picked
    assert ours not in " ".join(picked.split())  # they were kept within other limits
    said = call("prune", "--trust", "--resume", run, "--hard", code=2)
    assert "--hard cannot go with --resume" in said


def test_hard_needs_monotone_budgets(options, tmp_path):
    arguments = ["--budget", f"{SHRINKS}=0.9", "--hard", "--out", tmp_path / "run"]
    said = call("prune", *options, *arguments, code=2)
    assert "with budget 'widest'" in said
    assert "a budget of yours that never rises can be declared: Budget(..., monotone=True)" in said
    assert not (tmp_path / "run").exists()


def test_a_search_has_one_limit(tmp_path):
    arguments = ["--env", "PruneVGGAnyLimit-v0", "--out", tmp_path / "run"]
    said = call("prune", *arguments, code=2)
    assert "draws a limit for every episode; a search has one" in said
    assert not (tmp_path / "run").exists()
