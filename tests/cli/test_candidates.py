"""``--candidates``: several of the best networks are fine-tuned, and the best one then is taken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tiny import call

import prune_gym


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run, three of whose networks were fine-tuned."""
    folder = tmp_path_factory.mktemp("candidates")
    words = ["--budget", "params=0.4", "--algo", "random", "--evaluations", 30]
    words += ["--evaluation-samples", 100, "--finetune-steps", 3]
    said = call("prune", *words, "--candidates", 3, "--out", folder / "run")
    (folder / "said.txt").write_text(said)
    return folder / "run"


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def scores_in(said: str) -> list[str]:
    return re.findall(r"candidate \d fine-tuned: validation accuracy ([\d.]+)", said)


def test_the_best_of_the_fine_tuned_is_handed_over(run):
    said, metrics = (run.parent / "said.txt").read_text(), metrics_of(run)
    scores = [float(score) for score in scores_in(said)]
    assert len(scores) == metrics["candidates"] == 3
    assert metrics["accuracy"]["finetuned_validation"] == pytest.approx(max(scores), abs=1e-4)
    assert metrics["costs"]["params"] <= 0.4
    assert "3 steps, the best of 3 candidates" in (run / "report.html").read_text()
    network = prune_gym.load_pruned(run)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    assert n_parameters == metrics["pruned"]["params"]


def test_pick_takes_as_many_as_the_run_or_others(run, tmp_path):
    words = ["pick", run, "--budget", "params=0.5"]
    said, metrics = call(*words, "--out", tmp_path / "same"), metrics_of(tmp_path / "same")
    assert len(scores_in(said)) == metrics["candidates"] == 3
    assert f"network {metrics['picked_network']}:" in said
    said = call(*words, "--candidates", 2, "--out", tmp_path / "fewer")
    assert len(scores_in(said)) == metrics_of(tmp_path / "fewer")["candidates"] == 2


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["--candidates", 0], "--candidates 0 must be a whole number of at least 1"),
        (["--candidates", "all"], "--candidates"),
        (["--resume", "run", "--candidates", 2], "--candidates cannot go with --resume"),
    ],
)
def test_what_is_refused(words, refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert refused in call("prune", *words, code=2)
