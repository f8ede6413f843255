"""Budgets on the command line: amounts, programs, and going on after one that broke."""

from __future__ import annotations

import json
import os
import re
import sys

import own_budgets
import pytest
import tiny
from test_cli import call, rows_of, tiny_options  # noqa: F401 - a fixture

import prune_gym
from prune_gym.budgets import latency


def test_amounts_and_several_budgets(tiny_options, tmp_path):  # noqa: F811
    run = tmp_path / "run"
    limits = ["--budget", "params=400", "--budget", "size_bytes=2.1KB", "--budget", "macs=90%"]
    more = ["--algo", "random", "--timesteps", 60, "--out", run]
    said = call("prune", *tiny_options, *limits, "--budget", "activation_bytes=2KiB", *more)
    network = prune_gym.load_pruned(run, trust=True)
    assert sum(p.numel() for p in network.parameters()) <= 400
    tensors = [*network.parameters(), *network.buffers()]
    assert sum(t.numel() * t.element_size() for t in tensors) <= 2100
    assert re.search(
        r"params: 0\.\d{4}, within the limit .* \(\d+ parameters of at most 400 para", said
    )
    assert "bytes of at most 2,100 bytes)" in said
    config = json.loads((run / "config.json").read_text())
    assert config["problem"]["budgets"]["size_bytes"] == "2.1KB"
    judged = call("evaluate", "--trust", run)
    assert "within every limit" in judged
    assert re.search(r"activation_bytes .* bytes", judged)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "parameters of at most 400 parameters" in page


@pytest.fixture
def a_clock(monkeypatch):
    """Every forward takes its number of parameters in microseconds, exactly."""

    def ratio(self, network, unpruned, example):
        return own_budgets.size(network) / own_budgets.size(unpruned)

    monkeypatch.setattr(latency.Stopwatch, "ratio", ratio)
    monkeypatch.setattr(
        latency.Stopwatch, "milliseconds", lambda self, n, e: own_budgets.size(n) / 1000
    )


def test_the_environment_brings_its_budget_and_the_spread_is_told(tiny_options, tmp_path, a_clock):  # noqa: F811
    run = tmp_path / "run"
    env = ["--env", "PruneVGGLatency-v0", "--algo", "random", "--timesteps", 60, "--out", run]
    said = call("prune", *tiny_options, *env)
    assert re.search(
        r"latency_ms: (0\.\d{4}), within the limit 0.5 \(0\.\d+ ms of at most 0.3825 ms; cost "
        r"0\.\d+ to 0\.\d+ in 2 measurements\)",
        said,
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["measured"]["latency_ms"]["measurements"] == 2
    assert "in 2 measurements" in (run / "report.html").read_text(encoding="utf-8")
    assert re.search(r"0\.\d+ to 0\.\d+ in 2", call("evaluate", "--trust", run))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "budget 'own_budgets:fragile' raised OSError: device lost"),
        ("exits", "budget 'own_budgets:fragile' raised SystemExit: 3"),
        ("nonsense", "budget 'own_budgets:fragile' returned nan; expected a finite number"),
        ("meddles", "budget 'own_budgets:fragile' changed the network it was given: tensor"),
        ("hangs", "budget 'watched': no number after timeout_s=0.3 s; it goes on in the"),
    ],
)
def test_a_search_goes_on_once_its_budget_is_mended(tiny_options, tmp_path, how, message):  # noqa: F811
    run = tmp_path / "run"
    name = "own_budgets:watched" if how == "hangs" else "own_budgets:fragile"
    options = ["--budget", f"{name}=0.9", "--algo", "random", "--timesteps", 60, "--out", run]
    own_budgets.CALLS.clear()
    own_budgets.WAKE.clear()
    own_budgets.BROKEN[:] = [how]
    try:
        said = call("prune", *tiny_options, *options, code=2)
    finally:
        own_budgets.BROKEN.clear()
        own_budgets.WAKE.set()
    assert said.startswith("error: ")
    assert message in said
    before = rows_of(run)
    words = f"The {len(before)} networks recorded so far are kept. Mend the budget, then: "
    assert f"{words}prune-gym prune --resume {run}" in said
    assert 0 < len(before) < 20
    assert not (run / "metrics.json").exists()
    call("prune", "--trust", "--resume", run)
    after = rows_of(run)
    assert after[: len(before)] == before
    assert len(after) == 20
    assert json.loads((run / "metrics.json").read_text())["feasible"] is True


def test_an_agent_that_stops_in_its_first_round_has_recorded_nothing(tiny_options, tmp_path):  # noqa: F811
    run = tmp_path / "run"
    options = ["--budget", "own_budgets:fragile=0.9", "--timesteps", 60, "--out", run]
    options += ["--env", "PruneVGG-v0"]  # that of v1 begins with a scan
    own_budgets.CALLS.clear()
    own_budgets.BROKEN[:] = ["raises"]
    try:
        said = call("prune", *tiny_options, *options, "--algo", "ppo_lag", code=2)
    finally:
        own_budgets.BROKEN.clear()
    assert "device lost" in said
    assert (
        f"None is recorded yet. Mend the budget, then: prune-gym prune --resume {run} --trust"
        in said
    )
    assert not (run / "episodes.csv").exists()
    call("prune", "--trust", "--resume", run)
    assert len(rows_of(run)) == 20


@pytest.mark.skipif(os.name == "nt", reason="the program is for /bin/sh")
def test_a_program_breaks_is_mended_and_the_run_goes_on_elsewhere(
    tiny_options,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    program = tmp_path / "here" / "measure.sh"
    count = "echo x >> calls; [ $(wc -l < calls) -lt 9 ] || { echo lost >&2; exit 4; }"
    size = 'wc -c < "$1"'
    program.write_text(f"#!/bin/sh\n{count}\n{size}\n")
    program.chmod(0o755)
    budget = ["--budget", "command:./measure.sh {safetensors}=0.95"]
    options = [*budget, "--algo", "random", "--timesteps", 60, "--out", tmp_path / "run"]
    said = call("prune", *tiny_options, *options, code=2)
    assert "'./measure.sh {safetensors}' ended with status 4 in each of 2 runs; its stan" in said
    assert "standard error: 'lost'" in said
    assert 0 < len(rows_of(tmp_path / "run")) < 20
    program.write_text(f"#!/bin/sh\n{size}\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    said = call("prune", "--trust", "--resume", tmp_path / "run")
    assert re.search(r"measure: 0\.\d{4}, within the limit 0.95", said)
    assert len(rows_of(tmp_path / "run")) == 20


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("latency_ms=500KB", "latency_ms is in ms; '500KB' is not a time. Units that fit: ns, us,"),
        ("params=10M", "the limit of 'params' is 10M, and the unpruned network already meets it"),
        ("command:./gone.sh {onnx}=0.5", "command './gone.sh {onnx}': there is no file"),
        ("command:gone {onnx}=0.5", "command 'gone {onnx}': no program 'gone' on the PATH."),
        ("command:true=0.5", "command 'true': expected a program and one of {onnx}, {pt2}, {safe"),
        ("macs=5", "budget 'macs': limit"),
    ],
)
def test_wrong_budgets_make_no_folder(tiny_options, tmp_path, limit, message):  # noqa: F811
    run = tmp_path / "run"
    said = call("prune", *tiny_options, "--budget", limit, "--out", run, code=2)
    assert said.startswith("error: ")
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not run.exists()


def test_limits_that_cannot_be_reached_are_all_named_in_their_units(tiny_options, tmp_path):  # noqa: F811
    limits = ["--budget", "params=10", "--budget", "size_bytes=100B", "--budget", "macs=0.5"]
    said = call("prune", *tiny_options, *limits, "--out", tmp_path / "run", code=2)
    problem = prune_gym.make_problem(
        tiny.cli_network(), tiny.cli_dataset(), budgets={"params": 1.0, "size_bytes": 1.0}
    )
    floors = problem.values(problem.masks_of([1, 1, 1]))
    assert f"(10 parameters; floor {floors[0]:.0f} parameters)" in said
    assert f"(100 bytes; floor {floors[1]:.0f} bytes)" in said
    assert "'macs'" not in said


@pytest.mark.parametrize("drift", ["0.4", "1.6"])
def test_an_amount_is_one_limit_in_every_call(tiny_options, tmp_path, monkeypatch, drift):  # noqa: F811
    """The machine becomes faster or slower between the calls."""
    run = tmp_path / "run"
    options = ["--budget", "own_budgets:clock=700ms", "--algo", "random"]
    call("prune", *tiny_options, *options, "--timesteps", 30, "--out", run)
    config = json.loads((run / "config.json").read_text())["problem"]
    metrics = json.loads((run / "metrics.json").read_text())
    dense = metrics["unpruned_values"]["clock"]
    assert config["unpruned_values"] == {"clock": dense}
    before = rows_of(run)
    monkeypatch.setenv("DRIFT", drift)
    call("prune", "--trust", "--resume", run, "--timesteps", 60)
    after = rows_of(run)
    assert after[: len(before)] == before
    assert len(after) == 20
    fraction = 700 / dense
    for number, row in enumerate(after):
        assert (float(row["cost"]) <= fraction) == (row["feasible"] == "1"), number
    assert f"{fraction:g}" in call("evaluate", "--trust", run)
    call("pick", "--trust", run, "--budget", "clock=600ms", "--out", tmp_path / "picked")
    picked = json.loads((tmp_path / "picked" / "metrics.json").read_text())
    assert picked["limits"] == {"clock": pytest.approx(600 / dense)}
    assert picked["unpruned_values"] == {"clock": dense}


@pytest.mark.skipif(os.name == "nt", reason="the programs are for /bin/sh")
def test_programs_with_units_and_other_limits_from_another_folder(
    tiny_options,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    for folder in ("here", "elsewhere"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("size", "half"):
        (tmp_path / "here" / f"{name}.sh").write_text('wc -c < "$1"\n')
    one, other = ("command[bytes]:sh ./size.sh {safetensors}", "command:sh half.sh {safetensors}")
    options = [*tiny_options, "--algo", "random", "--timesteps", 60, "--out", tmp_path / "run"]
    said = call("prune", *options, "--budget", f"{one}=4.5KB", "--budget", f"{other}=0.95")
    assert re.search(r"size: 0\.\d+, within the limit .* bytes of at most 4,500 bytes", said)
    assert "half: 0." in said
    monkeypatch.chdir(tmp_path / "elsewhere")
    call("pick", "--trust", tmp_path / "run", "--budget", "command:sh ./size.sh {safetensors}=4KB")
    picked = tmp_path / "run" / "picked-size=4KB"
    metrics = json.loads((picked / "metrics.json").read_text())
    assert metrics["costs"]["size"] * metrics["unpruned_values"]["size"] <= 4000.0


def test_a_module_that_is_not_found_elsewhere(tiny_options, tmp_path, monkeypatch):  # noqa: F811
    here, run = tmp_path / "here", tmp_path / "run"
    here.mkdir()
    (here / "weighing.py").write_text(
        "def weigh(network):\n    return float(sum(p.numel() for p in network.parameters()))\n"
    )
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    options = [*tiny_options, "--algo", "random", "--timesteps", 30, "--out", run]
    call("prune", *options, "--budget", "weighing:weigh=0.9")
    monkeypatch.chdir(tmp_path)
    monkeypatch.undo()
    sys.modules.pop("weighing")
    for arguments in (
        ("prune", "--trust", "--resume", run),
        ("evaluate", "--trust", run),
        ("pick", "--trust", run, "--budget", "weighing:weigh=0.8"),
    ):
        said = call(*arguments, code=2)
        assert "'weighing:weigh' cannot be imported: No module named 'weighing'" in said
        assert f"The run began in {here}: go on in that folder, or put it on PYTHONPATH." in said
