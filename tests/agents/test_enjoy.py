"""``python -m agents.enjoy``."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from agents.enjoy import app
from agents.runs.folder import RunConfig
from agents.runs.training import Training

TOY = "agents.toy:BudgetToy-v0"


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with normalised observations and a best model."""
    out = tmp_path_factory.mktemp("runs") / "toy"
    config = RunConfig(
        algo="a2c_lag",
        env=TOY,
        n_envs=2,
        timesteps=256,
        normalize=True,
        eval_freq=64,
        eval_episodes=3,
    )
    Training.begin(config, out).run()
    return out


def test_final_model_plays_what_was_evaluated(run):
    final = json.loads((run / "result.json").read_text())["final"]
    lines = call(run, "--episodes", 3).splitlines()
    for number, line in enumerate(lines[:3]):
        earned, cost = final["returns"][number], final["costs"][number]
        verdict = "feasible" if cost <= 0.25 else "over the limit"
        assert line == (
            f"episode {number + 1}: return {earned:.4g}, cost {cost:.4g} (limit 0.25), 8 steps, "
            f"{verdict}"
        )
    assert lines[3].startswith("3 episodes: return ")


def test_best_model_has_its_own_statistics(run):
    assert (run / "best_vecnormalize.npz").exists()
    assert call(run, "--model", "best") != ""
    assert call(run, "--model", run / "best_model.zip") == call(run, "--model", "best")


def test_stochastic_is_repeatable(run):
    first = call(run, "--stochastic", "--seed", 5)
    assert first == call(run, "--stochastic", "--seed", 5)
    assert first != call(run)


def test_errors(run, tmp_path):
    assert "cannot be shown: its render modes are []" in call(run, "--render", code=2)
    assert "holds no config.json" in call(tmp_path, code=2)
    assert "there is no nothing.zip; pass final, best" in call(
        run, "--model", "nothing.zip", code=2
    )
    (tmp_path / "text").write_text("no model")
    assert "text' is no saved model" in call(run, "--model", tmp_path / "text", code=2)
    config = RunConfig(algo="a2c_lag", env=TOY, normalize=True)
    Training.begin(config, tmp_path / "new")
    error = call(tmp_path / "new", code=2)
    assert f"not finished: python -m agents.train --resume {tmp_path / 'new'}" in error
    error = call(tmp_path / "new", "--model", "best", code=2)
    assert "train with --eval-freq" in error
    error = call(tmp_path / "new", "--model", run / "model.zip", code=2)
    assert "vecnormalize.npz is missing" in error
