"""Commands with ``--workers``: what they find is what they find without."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def run(*words):
    """What a command says; raises where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def without_times(folder):
    with open(folder / "episodes.csv", newline="", encoding="utf-8") as file:
        return [
            {name: value for name, value in row.items() if not name.endswith("_s")}
            for row in csv.DictReader(file)
        ]


def test_prune_and_pick(cluster, tmp_path):
    words = ("prune_gym", "prune", "--algo", "evolution", "--evaluations", 24)
    words += ("--finetune-steps", 5, "--out")
    run(*words, tmp_path / "alone")
    run(*words, tmp_path / "workers", "--workers", 2)
    assert without_times(tmp_path / "workers") == without_times(tmp_path / "alone")


def test_a_latency_is_measured_on_one_machine(cluster, tmp_path):
    out = tmp_path / "run"
    words = ("--workers", 2, "--measure-on", "stopwatch")
    run(
        *("prune_gym", "prune", "--algo", "random", "--budget", "latency_ms=0.95"),
        *("--evaluations", 10, "--finetune-steps", 0, "--round-to", 1, "--out", out, *words),
    )
    assert "latency_ms" in json.loads((out / "metrics.json").read_text())["measured"]
    picked = tmp_path / "picked"
    run(
        *("prune_gym", "pick", out, "--budget", "latency_ms=0.97", "--finetune-steps", 0),
        *("--out", picked, *words),
    )
    assert "latency_ms" in json.loads((picked / "metrics.json").read_text())["measured"]


def test_train_and_sweep(cluster, tmp_path):
    words = ("--timesteps", 256, "--eval-episodes", 2, "--n-envs", 4, "--out")
    words = ("agents.train", "--algo", "ppo_lag", "--env", "agents.toy:BudgetToy-v0", *words)
    run(*words, tmp_path / "alone")
    run(*words, tmp_path / "workers", "--workers", 2)
    results = [
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("alone", "workers")
    ]
    for result in results:
        for name in list(result):
            if name.endswith("_s"):
                del result[name]
    assert results[0] == results[1]
    grid = tmp_path / "grid.json"
    grid.write_text(
        json.dumps(
            {
                "algo": ["ppo_lag", "ppo_pid"],
                "env": "agents.toy:BudgetToy-v0",
                "timesteps": 128,
                "eval_episodes": 2,
            }
        )
    )
    words = ("prune_gym", "sweep", grid, "--out", tmp_path / "sweep", "--workers", 2)
    assert "ppo_pid" in run(*words)
    assert "finished before" in run(*words)


def test_the_benchmark(cluster, tmp_path):
    words = ("agents.benchmark", "random", "--tasks", "table-*", "--seeds", 1, "--out")
    run(*words, tmp_path / "alone")
    run(*words, tmp_path / "workers", "--workers", 2)
    rows = [
        {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*.json")}
        for name in ("alone", "workers")
    ]
    assert rows[0] == rows[1]
    assert rows[0]
