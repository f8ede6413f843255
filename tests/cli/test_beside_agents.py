"""Runs of ``agents.train`` beside those of ``prune-gym prune``: each command names the other."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from agents.runs.folder import RunConfig
from agents.runs.folder import RunFolder as TrainingFolder
from prune_gym.cli.main import app


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate"],
        ["pick", "--budget", "params=0.3"],
        ["export", "--format", "onnx"],
        ["prune", "--resume"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_runs_of_agents_are_refused_by_name(arguments, tmp_path):
    run = tmp_path / "run"
    TrainingFolder.create(run, RunConfig(algo="ppo_lag", env="agents.toy:BudgetToy-v0"))
    result = CliRunner().invoke(app, [*arguments, str(run)])
    assert result.exit_code == 2
    assert f"{run} is a run of python -m agents.train" in result.stderr
    assert f"python -m agents.enjoy {run}" in result.stderr
    assert result.stderr.count("\n") == 1
