"""Grids of trainings: what is read, what is run, what is gone on with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agents.errors import InvalidValueError, RunFolderError
from agents.ray_tasks import Cluster
from agents.runs.folder import RunFolder
from agents.sweep.runs import _Work, read_sweep, sweep, sweep_runs

TOY = {"algo": "ppo_lag", "env": "agents.toy:BudgetToy-v0", "timesteps": 128}


def test_a_grid_is_every_combination(tmp_path):
    grid = {
        **TOY,
        "algo": ["ppo_lag", "ppo_pid"],
        "seed": [0, 1],
        "wrappers": ["mine:Wrapper"],
        "env_kwargs.n_steps": 8,
        "overrides.learning_rate": [1e-3, 1e-4],
    }
    path = tmp_path / "grid.json"
    path.write_text(json.dumps(grid))
    runs = read_sweep(path)
    assert len({run.name for run in runs}) == 8
    assert runs[0].name == "algo=ppo_lag,seed=0,learning_rate=0.001"
    assert runs[0].config.wrappers == ("mine:Wrapper",)
    assert runs[-1].config.overrides == {"learning_rate": 1e-4}
    assert runs[-1].config.env_kwargs == {"n_steps": 8}


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"algo": "ppo_lag"}, "'env' is missing"),
        ({**TOY, "sed": 1}, "'sed' is no field of a run"),
        ({**TOY, "seed": [0, 0]}, "two runs are called"),
        ({**TOY, "seed": "a"}, "seed is 'a'"),
        ({**TOY, "algo": []}, "'algo' is an empty list"),
        ({**TOY, "seed.x": 1}, "'seed.x' is no field"),
        ({**TOY, "algo": "no"}, "name is 'no'"),
    ],
)
def test_a_grid_that_is_none(grid, words):
    with pytest.raises(InvalidValueError, match=words):
        sweep_runs(grid)


def test_what_is_finished_is_not_run_again_and_other_runs_are_refused(tmp_path):
    from agents.runs.training import Training

    run = sweep_runs({**TOY, "eval_episodes": 2})[0]
    Training.begin(run.config, tmp_path / run.name).run()
    outcomes = list(sweep([run], tmp_path, Cluster(1)))
    assert [one.words for one in outcomes] == ["finished before"]
    other = sweep_runs({**TOY, "eval_episodes": 3})[0]
    with pytest.raises(RunFolderError, match="holds a run with other settings"):
        list(sweep([other], tmp_path, Cluster(1)))


@pytest.mark.slow
@pytest.mark.parametrize("is_shared", [True, False])
def test_runs_are_trained_in_a_cluster(cluster, tmp_path, monkeypatch, is_shared):
    plain = _Work._task

    def task(work, run):
        made = plain(work, run)
        return made if is_shared else replace(made, out="/nowhere")  # as no machine sees it

    monkeypatch.setattr(_Work, "_task", task)
    grid = {**TOY, "seed": [0, 1], "eval_episodes": 2}
    for timesteps in (128, 512):  # the second time they go on
        runs = sweep_runs({**grid, "timesteps": timesteps})
        outcomes = list(sweep(runs, tmp_path, Cluster(2)))
        assert all(one.is_finished for one in outcomes), outcomes
        for run in runs:
            folder, config = RunFolder.open(tmp_path / run.name)
            assert folder.result.is_file()
            assert config.timesteps == timesteps
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == sorted(run.name for run in runs)
