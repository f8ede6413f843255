"""Paths on the command line: home folders, and places that are tried before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from prune_gym.cli import main as command
from prune_gym.cli import pick, pretrain, prune
from prune_gym.searches.config import SearchConfig
from prune_gym.utils.files import write_json


class Loaded(Exception):
    """The data would be loaded now."""


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch, tmp_path):
    def load(*_, **__):
        raise Loaded

    for module, name in (
        (prune, "make_problem"),
        (pretrain, "load_dataset"),
        (pick.Front, "load"),
    ):
        monkeypatch.setattr(module, name, load)
    monkeypatch.setattr("prune_gym.cli.export.read_plan", load)
    monkeypatch.setattr("prune_gym.cli.export.check_installed", lambda name: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "front.npz").touch()
    problem = {"network": "small", "dataset": "digits", "budgets": {"params": 0.5}}
    config = SearchConfig("PruneVGG-v0", "random", 8, 0, 0, problem)
    write_json(tmp_path / "run" / "config.json", config.to_json())


def call(*words: str):
    return CliRunner().invoke(command.app, words)


COMMANDS = {
    "prune": ["prune", "--out"],
    "pick": ["pick", "run", "--budget", "params=0.5", "--out"],
    "export": ["export", "run", "--format", "onnx", "--out"],
    "pretrain": ["pretrain", "small", "--out"],
}


@pytest.mark.parametrize("place", ["file/x", "/proc/nowhere/x", "x" * 300, "a\nb"])
@pytest.mark.parametrize("name", COMMANDS)
def test_places_that_cannot_be_are_refused_before_anything_is_loaded(name, place, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = call(*COMMANDS[name], place)
    assert not isinstance(done.exception, Loaded)
    assert done.exit_code == 2
    assert "cannot be written" in done.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_can_be_is_no_obstacle(name, tmp_path):
    assert isinstance(call(*COMMANDS[name], "~/new/x").exception, Loaded)
    assert not (tmp_path / "~").exists()


def test_home_folders_and_slashes_reach_the_run(monkeypatch, tmp_path):
    seen = {}

    def start(config, problem, path, *_):
        seen.update(problem, out=path)

    monkeypatch.setattr(prune, "start", start)
    done = call(
        "prune", "--dataset", "folder:~/birds@64/", "--weights", "~/w.safetensors", "--out", "~/new"
    )
    assert done.exit_code == 0, done.output
    assert seen["dataset"] == f"folder:{tmp_path}/birds@64/"
    assert seen["weights"] == str(tmp_path / "w.safetensors")
    assert seen["out"] == tmp_path / "new"
    call("prune", "--dataset", "folder:birds@64")
    assert seen["dataset"] == f"folder:{tmp_path}/birds@64"
    assert seen["out"] == Path("runs/bayesian-0")
    done = call("prune", "--dataset", "folder:")
    assert (done.exit_code, "needs a path" in done.output) == (2, True)


def test_a_run_is_resumed_from_the_home_folder(tmp_path):
    done = call("prune", "--resume", "~/nowhere")
    assert f"{tmp_path}/nowhere is no run folder" in done.output.replace("\n", "")
    assert "is no run folder" not in call("prune", "--resume", "~/run").output
