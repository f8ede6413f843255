"""Run folders are data: what runs code is named, and only done for those who trust the folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile

import pytest
import torch as th
from typer.testing import CliRunner

from agents import compare as compare_module
from agents import enjoy as enjoy_module
from agents import train as train_module
from agents.errors import ModelFileError, RunFolderError, TrustError
from agents.runs.folder import RunConfig, RunFolder
from agents.runs.training import Training
from agents.runs.trust import named_code

TOY = "agents.toy:BudgetToy-v0"


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def call(module, *arguments, code=0):
    result = CliRunner().invoke(module.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of an off-policy agent with all the files that there are."""
    out = tmp_path_factory.mktemp("finished") / "run"
    config = RunConfig(
        algo="td3_lag",
        env=TOY,
        timesteps=96,
        normalize=True,
        eval_freq=48,
        eval_episodes=2,
        overrides={"learning_starts": 16, "buffer_size": 100, "batch_size": 8},
    )
    Training.begin(config, out).run()
    return out


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished, tmp_path / "run")


def change(run, **values):
    path = run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


CODE = {
    "env": ({"env": "antigravity:Mine-v0"}, "env: 'antigravity:Mine-v0'"),
    "env of a package": ({"env": "http.server:X-v0"}, "env: 'http.server:X-v0'"),
    "wrapper": ({"wrappers": ["http.server:test"]}, "wrappers: 'http.server:test'"),
    "argument": ({"env_kwargs": {"network": "mine:net"}}, "env_kwargs.network: 'mine:net'"),
    "folder as network": ({"env_kwargs": {"network": "folder:net"}}, "'folder:net'"),
    "budget": (
        {"env_kwargs": {"budgets": {"command:touch x": 0.5}}},
        "env_kwargs.budgets: 'command:touch x'",
    ),
    "deep": ({"env_kwargs": {"a": [{"b": ["x:y"]}]}}, "env_kwargs.a.b: 'x:y'"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_that_a_configuration_names_is_not_run(name, run):
    values, message = CODE[name]
    change(run, **values)
    for words in (
        call(enjoy_module, run, code=2),
        call(train_module, "--resume", run, "--timesteps", 200, code=2),
    ):
        assert message in words
        assert "--trust" in words
        assert words.count("\n") == 1
    with pytest.raises(TrustError, match="trust=True"):
        Training.resume(run, 200)


def test_data_is_no_code():
    for values in (
        {"env": "CartPole-v1"},
        {"env": "prune_gym:PruneVGG-v0", "env_kwargs": {"network": "small"}},
        {"env": TOY, "env_kwargs": {"dataset": "folder:~/birds"}},
        {"env": TOY, "wrappers": ("gymnasium.wrappers:ClipAction",)},
    ):
        assert named_code(RunConfig(algo="ppo_lag", **values)) is None


def test_with_trust_it_is_run(run, monkeypatch):
    (run.parent / "own_wrapper.py").write_text(
        "import gymnasium\n\nclass Own(gymnasium.Wrapper):\n    cost_limit = 0.3\n"
    )
    monkeypatch.syspath_prepend(run.parent)
    change(run, wrappers=["own_wrapper:Own"])
    assert "wrappers: 'own_wrapper:Own'" in call(enjoy_module, run, code=2)
    assert "limit 0.3" in call(enjoy_module, run, "--episodes", 1, "--trust")
    said = call(train_module, "--resume", run, "--timesteps", 120, "--trust")
    assert f"agents.enjoy {run} --trust" in said  # what it says to go on with works


FILES = ("model.zip", "best_model.zip", "vecnormalize.npz", "best_vecnormalize.npz")


@pytest.mark.parametrize("name", [*FILES, "checkpoint.zip", "evaluations.npz", "config.json"])
@pytest.mark.parametrize("how", ["bare", "in a zip"])
def test_a_pickle_in_the_place_of_any_file_is_not_loaded(name, how, run):
    content = pickle.dumps(Trap())
    if how == "bare":
        (run / name).write_bytes(content)
    else:
        with zipfile.ZipFile(run / name, "w") as archive:
            for member in ("data", "state.pkl", "policy.pth", "replay_buffer.pkl", "costs.npy"):
                archive.writestr(member, content)
    model = "best" if name.startswith("best") else "final"
    runner = CliRunner()
    for module, arguments in (
        (enjoy_module, [run, "--model", model, "--episodes", 1]),
        (train_module, ["--resume", run, "--timesteps", 120]),
    ):
        result = runner.invoke(module.app, list(map(str, arguments)))
        assert isinstance(result.exception, SystemExit | None), result.exception
        assert result.exit_code in (0, 2)
    assert not (run.parent / "trapped").exists()


def rewritten(path, edit, member="data"):
    """Change a file of an archive."""
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    content[member] = edit(content[member])
    with zipfile.ZipFile(path, "w") as new:
        for name, value in content.items():
            new.writestr(name, value)


def edited(**values):
    def edit(content):
        data = json.loads(content)
        for key, value in values.items():
            place = data
            *path, last = key.split("__")
            for part in path:
                place = place[part]
            place[last] = value
        return json.dumps(data)

    return edit


CHECKPOINTS = {
    "steps": (edited(num_timesteps=-1), "steps are negative"),
    "kind": (edited(num_timesteps="many"), "num_timesteps is many"),
    "parts": (edited(parts__episodes__episodes="x"), r"parts\.episodes\.episodes is x"),
    "seconds": (edited(parts__episodes__wall_s=None), r"parts\.episodes\.wall_s is None"),
    "no part": (edited(parts={}), r"parts\.episodes\.keys"),
    "method": (edited(parts__evaluations__on_step=1), r"parts\.evaluations\.keys"),
    "best": (edited(parts__evaluations__best=3), r"parts\.evaluations\.best is 3"),
    "statistics": (edited(statistics={}), "statistics.obs_rms do not fit"),
    "more": (edited(extra=1), "something else"),
    "text": (lambda _: b"{", "no JSON"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tampered_checkpoints_are_named_and_lose_nothing(name, run):
    edit, message = CHECKPOINTS[name]
    rewritten(run / "checkpoint.zip", edit)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ModelFileError, match=rf"checkpoint\.zip.*{message}.*anew"):
        Training.resume(run, 200)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_checkpoint_puts_back_its_own_files_only(run):
    edit = edited(keeps={":tuple": ["config.json", "../outside", "best_model.zip"]})
    rewritten(run / "checkpoint.zip", edit)
    config = (run / "config.json").read_text()
    Training.resume(run, 200).run()
    assert json.loads((run / "config.json").read_text()) == {**json.loads(config), "timesteps": 200}
    assert not (run.parent / "outside").exists()


CONFIGS = {
    "seed": ({"seed": "x"}, "seed is 'x'; it must be a whole number from 0 to"),
    "steps": ({"timesteps": 10**30}, "timesteps is 1000.*; it must be"),
    "envs": ({"n_envs": 10**9}, "n_envs is 1000000000; it must be a whole number from 1 to 4096"),
    "bool": ({"n_envs": True}, "n_envs is True"),
    "limit": ({"cost_limit": float("nan")}, "cost_limit is nan"),
    "wrappers": ({"wrappers": [1]}, r"wrappers is \[1\]; it must be a list"),
    "kwargs": ({"env_kwargs": []}, r"env_kwargs is \[\]; it must be an object"),
    "unknown": ({"extra": 1}, "'extra' is no field of a run"),
    "algorithm": ({"algo": "os:system"}, "name is 'os:system'; it must be one of"),
    "device": ({"device": "nowhere"}, "device is 'nowhere'"),
    "networks": ({"env": "Nothing-v0"}, "Nothing"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_tampered_configurations_are_named(name, run):
    values, message = CONFIGS[name]
    change(run, **values)
    with pytest.raises(ValueError, match=message):
        Training.resume(run, 200)
    words = call(enjoy_module, run, code=2)
    assert "Traceback" not in words


def test_damaged_logs_are_named(run):
    (run / "episodes.csv").write_text("nonsense\n1\n2\n")
    with pytest.raises(RunFolderError, match=r"episodes\.csv is damaged"):
        Training.resume(run, 97).run()


def test_absurd_networks_are_refused_before_they_are_made(run):
    (run / "checkpoint.zip").unlink()  # so that they are made as the configuration says
    change(run, overrides={"policy_kwargs": {"net_arch": [10**6, 10**6]}})
    with pytest.raises(ValueError, match=r"cannot be made with .* far too large"):
        Training.resume(run, 200)


def test_nothing_of_a_run_is_unpickled(run, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(th, "load", refuse)
    Training.resume(run, 150).run()
    assert "episode" in call(enjoy_module, run, "--model", "best", "--episodes", 1)


# -- beside runs of prune-gym prune ---------------------------------------------------------------


def pruning_run(path):
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"algo": "ppo", "problem": {}, "finetune_steps": 0})
    )
    return path


def test_runs_of_pruning_are_refused_by_name(tmp_path):
    path = pruning_run(tmp_path / "pruned")
    with pytest.raises(RunFolderError, match=r"prune-gym prune --resume .*pruned"):
        RunFolder.open(path)
    assert "prune-gym prune --resume" in call(enjoy_module, path, code=2)
    assert "prune-gym prune --resume" in call(train_module, "--resume", path, code=2)


def test_runs_of_pruning_are_left_out_of_a_comparison(run):
    runs = run.parent / "runs"
    runs.mkdir()
    run.rename(runs / "agent")
    pruning_run(runs / "pruned")
    pytest.importorskip("rliable")
    result = CliRunner().invoke(compare_module.app, [str(path) for path in runs.iterdir()])
    assert result.exit_code == 0, result.output
    assert "td3_lag" in result.stdout
    assert result.stderr.count("\n") == 1
    assert f"left out {runs / 'pruned'}: of prune-gym prune" in result.stderr
    with pytest.warns(UserWarning, match=r"left out .*pruned"):
        assert len(compare_module.compare([runs]).runs) == 1
    with pytest.raises(RunFolderError, match=r"nothing to compare but .*pruned"):
        compare_module.compare([runs / "pruned"])
