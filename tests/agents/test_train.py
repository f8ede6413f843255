"""``python -m agents.train``: runs from the first step to the result, and every wrong input."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
from typer.testing import CliRunner

from agents import AGENTS
from agents.algorithms.two_critics import PPOLagrangian
from agents.comparison.finished_runs import read_runs
from agents.enjoy import play
from agents.logs import keep_lines
from agents.runs.episode_log import ContinuedCSV, summarise
from agents.runs.folder import RunFolder
from agents.toy import BudgetToyEnv
from agents.train import app

TOY = ["--env", "agents.toy:BudgetToy-v0"]
QUICK = ["--n-envs", 2, "--set", "n_steps=60", "--set", "batch_size=60", "--set", "n_epochs=1"]
QUICK += ["--eval-episodes", 3]


def call(*arguments, code=0):
    """Run the command in this process; its standard output, or its standard error if it failed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout if code in (0, 130) else result.stderr


def rows_of(run):
    with (run / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and what the command printed."""
    out = tmp_path_factory.mktemp("runs") / "toy"
    options = ["--eval-freq", 240, "--set", "multiplier.initial=2.5", "--cost-limit", 0.3]
    printed = call(
        "--algo", "ppo_lag", *TOY, *QUICK, *options, "--timesteps", 600, "--seed", 3, "--out", out
    )
    return out, printed


class TestFinishedRun:
    def test_files(self, finished):
        out, printed = finished
        names = {path.name.split(".17")[0].split(".vm")[0] for path in out.iterdir()}
        expected = "command.txt config.json versions.json progress.csv episodes.csv checkpoint.zip"
        expected += " best_model.zip model.zip evaluations.npz result.json"
        assert names >= set(expected.split())
        assert any(name.startswith("events.out.tfevents") for name in names)
        assert f"results are in {out}" in printed
        assert "3 episodes: return" in printed

    def test_config(self, finished):
        config = json.loads((finished[0] / "config.json").read_text())
        assert config == {
            "algo": "ppo_lag",
            "env": "agents.toy:BudgetToy-v0",
            "env_kwargs": {},
            "wrappers": [],
            "seed": 3,
            "timesteps": 600,
            "n_envs": 2,
            "overrides": {
                "n_steps": 60,
                "batch_size": 60,
                "n_epochs": 1,
                "multiplier.initial": 2.5,
            },
            "normalize": False,
            "cost_limit": 0.3,
            "eval_freq": 240,
            "eval_episodes": 3,
            "device": "cpu",
        }
        versions = json.loads((finished[0] / "versions.json").read_text())
        assert {"python", "machine", "torch", "stable-baselines3"} <= versions.keys()

    def test_episodes(self, finished):
        rows = rows_of(finished[0])
        assert list(rows[0]) == [
            *("episode", "timesteps", "return", "cost", "length", "feasible"),
            *("multiplier", "wall_s"),
        ]
        assert [int(row["episode"]) for row in rows] == list(range(1, 75))  # 2 * (600 / 2 // 8)
        assert float(rows[0]["multiplier"]) == 2.5
        assert all(
            (row["feasible"] == "1") == (float(row["cost"]) <= 0.3) and row["length"] == "8"
            for row in rows
        )

    def test_result(self, finished):
        result = json.loads((finished[0] / "result.json").read_text())
        rows = rows_of(finished[0])
        good = [row for row in rows if row["feasible"] == "1"]
        final, returns = result["final"], [float(row["return"]) for row in good]
        pairs = [*zip(final["returns"], final["costs"], strict=True)]
        with np.load(finished[0] / "evaluations.npz") as file:
            pairs += zip(file["results"].ravel(), file["costs"].ravel(), strict=True)
        returns += [earned for earned, cost in pairs if cost <= 0.3]
        assert result["episodes"] == len(rows)
        assert result["violations"] == len(rows) - len(good)
        assert result["best_feasible_return"] == max(returns, default=None)
        first = int(good[0]["episode"]) if good else None
        assert result["episodes_to_first_feasible"] == first
        assert result["wall_s"] > 0.0
        assert result["final"]["cost_limit"] == 0.3
        assert len(result["final"]["returns"]) == result["final"]["episodes"] == 3
        (run,) = read_runs([finished[0]])
        assert (run.algorithm, run.seed, run.timesteps) == ("ppo_lag", 3, 600)

    def test_model_is_the_final_one(self, finished):
        model = PPOLagrangian.load(finished[0] / "model.zip", device="cpu")
        assert (model.num_timesteps, model.n_steps, model.n_epochs) == (600, 60, 1)
        assert model.cost_limit.tolist() == [0.3]

    def test_evaluations(self, finished):
        with np.load(finished[0] / "evaluations.npz") as evaluations:
            assert evaluations["timesteps"].tolist() == [240, 480]
            assert evaluations["costs"].shape == (2, 3)

    def test_is_never_overwritten(self, finished):
        out = finished[0]
        error = call("--algo", "ppo_lag", *TOY, "--out", out, code=2)
        assert (
            f"holds a run already; choose another folder, or continue it: --resume {out}" in error
        )
        error = call("--resume", out, code=2)
        assert "is finished, with 600 timesteps. To train longer give the new total: --r" in error
        error = call("--resume", out, "--timesteps", 10, code=2)
        assert "timesteps is 10, but" in error
        assert "has 600 already: give more" in error


def test_the_default_folder_and_a_longer_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--n-envs", 1, "--seed", 7, "--set", "n_steps=64"]
    printed = call("--algo", "a2c_lag", *TOY, "--timesteps", 64, *options)
    run = tmp_path / "runs" / "a2c_lag-BudgetToy-v0-7"
    assert "in runs/a2c_lag-BudgetToy-v0-7" in printed
    before = (run / "episodes.csv").read_text()
    call("--resume", run, "--timesteps", 128)
    assert (run / "episodes.csv").read_text().startswith(before)
    assert len(rows_of(run)) == 16
    assert len((run / "command.txt").read_text().splitlines()) == 2
    with (run / "progress.csv").open(newline="") as file:
        steps = [row["time/total_timesteps"] for row in csv.DictReader(file)]
    assert [int(step) for step in steps if step] == [64, 128]


LONGER = ["--algo", "ppo_lag", *TOY, "--timesteps", 1200, *QUICK]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_by_a_signal(tmp_path, number):
    """The run goes on where its last checkpoint left it."""
    run = tmp_path / "run"
    options = [*LONGER, "--checkpoint-every", 0, "--out", run]
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.train", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (run / "checkpoint.zip").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    printed, error = process.communicate(timeout=120)
    if number != signal.SIGKILL:
        assert process.returncode == 130, error
        assert f"go on with: python -m agents.train --resume {run}" in printed
    assert not (run / "result.json").exists()
    before = rows_of(run) if number != signal.SIGKILL else []
    call("--resume", run)
    rows = rows_of(run)
    assert rows[: len(before)] == before
    assert [int(row["episode"]) for row in rows] == list(range(1, len(rows) + 1))
    model = PPOLagrangian.load(run / "model.zip")
    assert model.num_timesteps >= 1200
    assert model.episodes == len(rows) >= 1200 // 8 - 2  # but for those that the end broke off
    if number != signal.SIGKILL:
        assert printed.count("stopped after") == 1
        assert "stopping after this rollout; once more: at once" in error


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_progress_bar(tmp_path):
    call("--algo", "a2c_lag", *TOY, "--timesteps", 16, "--progress", "--out", tmp_path / "run")
    assert (tmp_path / "run" / "result.json").exists()


def test_progress_without_tqdm(tmp_path, monkeypatch):
    monkeypatch.setattr("stable_baselines3.common.callbacks.tqdm", None)
    options = ["--algo", "a2c_lag", *TOY, "--progress", "--out", tmp_path / "run"]
    error = call(*options, code=2)
    assert 'progress needs tqdm and rich: pip install "prune-gym[agents]"' in error
    assert not (tmp_path / "run").exists()


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr("agents.runs.episode_log.SummaryWriter", None)
    call("--algo", "a2c_lag", *TOY, "--timesteps", 16, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "progress.csv").exists()
    assert not list((tmp_path / "run").glob("events*"))


def test_wrappers_and_arguments_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "half_limit.py").write_text(
        "import gymnasium as gym\n"
        "class HalfLimit(gym.Wrapper):\n"
        "    @property\n"
        "    def cost_limit(self):\n"
        "        return self.env.unwrapped.cost_limit / 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--env-kwargs", "cost_limit=0.8", "--wrapper", "half_limit:HalfLimit"]
    call("--algo", "a2c_lag", *TOY, "--timesteps", 16, *options, "--out", tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["final"]["cost_limit"] == 0.4
    error = call("--algo", "a2c_lag", *TOY, "--wrapper", "half_limit:HalfLimt", code=2)
    assert "half_limit has no 'HalfLimt'. Did you mean 'half_limit:HalfLimit'?" in error


def test_tuned_values_of_the_environment_are_the_defaults(tmp_path):
    out = str(tmp_path / "run")
    call("--algo", "ppo_lag", *TOY, "--timesteps", "512", "--out", out)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["n_envs"] == AGENTS["ppo_lag"].tuned_for("BudgetToy-v0").n_envs == 32


def test_list():
    printed = call("--list")
    for words in ("ppo_lag", "sac_lag", "action spaces", "Box"):
        assert words in printed


def test_list_says_what_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    printed = call("--list")
    assert "not" in printed.split("tqc_lag")[1]


WRONG = {
    "no algo": ([*TOY], "--algo is missing; --list names the agents"),
    "no env": (["--algo", "ppo_lag"], "--env is missing"),
    "algo": (["--algo", "ppo_lagg", *TOY], "Did you mean 'ppo_lag'?"),
    "env": (["--algo", "ppo_lag", "--env", "agents.toy:BudgetTo-v0"], "Did you mean: `BudgetToy`"),
    "env without module": (
        ["--algo", "ppo_lag", "--env", "NoSuchToy-v0"],
        "Name the module that registers it, too: MODULE:NoSuchToy-v0",
    ),
    "no cost, masks": (
        ["--algo", "maskable_ppo_lag", "--env", "CartPole-v1", "--wrapper", "test_train:Masked"],
        'info["cost"] is missing',
    ),
    "device": (["--algo", "ppo_lag", *TOY, "--device", "cud"], "device"),
    "env module": (["--algo", "ppo_lag", "--env", "agent.toy:X-v0"], "No module named 'agent"),
    "env argument": (["--algo", "ppo_lag", *TOY, "--env-kwargs", "limit=1"], "argument 'limit'"),
    "no cost": (["--algo", "ppo_lag", "--env", "CartPole-v1"], 'info["cost"] is missing'),
    "override": (["--algo", "ppo_lag", *TOY, "--set", "n_step=1"], "Did you mean 'n_steps'?"),
    "value": (["--algo", "ppo_lag", *TOY, "--set", "n_steps=1,"], "--set 'n_steps=1,'"),
    "multiplier": (["--algo", "ppo_lag", *TOY, "--set", "multiplier.x=1"], "multiplier of ppo_lag"),
    "no multiplier": (
        ["--algo", "cpo", *TOY, "--set", "multiplier.initial=1"],
        "cpo has no multiplier to choose: leave multiplier.initial out",
    ),
    "action space": (["--algo", "dqn_lag", *TOY], "dqn_lag takes an action space of Discrete"),
    "wrapper": (["--algo", "a2c_lag", *TOY, "--wrapper", "nonsense"], "expected MODULE:NAME"),
    "wrapper module": (["--algo", "a2c_lag", *TOY, "--wrapper", "no.such:X"], "cannot be imported"),
    "wrapper arguments": (
        ["--algo", "a2c_lag", *TOY, "--wrapper", "agents.wrappers:AddCost"],
        "name a function of yours",
    ),
    "no wrapper": (["--algo", "a2c_lag", *TOY, "--wrapper", "builtins:id"], "no gymnasium.Env"),
    "cuda": (["--algo", "a2c_lag", *TOY, "--device", "xla:0"], "device is 'xla:0': "),
    "env value": (
        ["--algo", "a2c_lag", *TOY, "--env-kwargs", "cost_limit=-1"],
        "cost_limit is -1; it must be a finite number > 0",
    ),
    "env value elsewhere": (
        ["--algo", "a2c_lag", "--env", "test_train:Picky-v0", "--env-kwargs", "size=-1"],
        "env='test_train:Picky-v0' cannot be made: size must be positive",
    ),
    "override of another library": (
        ["--algo", "ppo_lag", *TOY, "--set", "n_steps=1e3"],
        "ppo_lag cannot be made with {'n_steps': 1000.0}: ",
    ),
    "no folder": (
        ["--algo", "a2c_lag", *TOY, "--out", "/proc/nowhere/run"],
        "/proc/nowhere/run cannot be written (",
    ),
    "no run": (["--resume", "nowhere"], "nowhere is no run folder: it holds no config.json"),
    "beside resume": (["--resume", "x", "--set", "a=1"], "--set cannot go with --resume"),
}


class Picky(gym.Env):
    """Somebody else's, with errors of its own."""

    def __init__(self, size):
        raise ValueError("size must be positive")


gym.register("Picky-v0", Picky)


class Masked(gym.Wrapper):
    """Has a limit and masks, but no cost."""

    cost_limit = 1.0

    def action_masks(self):
        return np.array([False, True])


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_makes_no_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "test_train", sys.modules[__name__])
    options, words = WRONG[name]
    if name == "value":
        options = [*options[:-1], "n_steps=1 2"]
        words = "'1 2' is no Python literal"
    error = call(*options, code=2)
    assert words in error
    assert error.startswith("error: ")
    assert not list(tmp_path.iterdir())


def buggy(env):
    """A wrapper of somebody who made a mistake."""
    return {}[[]]


def test_a_bug_in_a_wrapper_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "test_train", sys.modules[__name__])
    options = ["--algo", "a2c_lag", *TOY, "--out", tmp_path / "run"]
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        call(*options, "--wrapper", "test_train:buggy")
    assert not (tmp_path / "run").exists()


def test_a_training_that_diverged(tmp_path):
    options = ["--algo", "ppo_lag", *TOY, *QUICK, "--set", "learning_rate=1e30"]
    error = call(*options, "--timesteps", 600, "--out", tmp_path / "run", code=2)
    assert "are no numbers any more after" in error
    assert "lower learning_rate" in error


def test_other_files_are_not_written_over(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    error = call("--algo", "ppo_lag", *TOY, "--out", tmp_path, code=2)
    assert "holds other files; choose another folder" in error


def test_damaged_config(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "is damaged: 'algo' is missing" in call("--resume", tmp_path, code=2)


def test_the_log_gets_new_columns_after_it_was_continued(tmp_path):
    path = tmp_path / "progress.csv"
    for values in ({"a": 1.0}, {"a": 2.0, "b": 3.0}):
        writer = ContinuedCSV(path)
        writer.write(values, dict.fromkeys(values, ("",)))
        writer.close()
    assert path.read_text() == "a,b\n1.0,\n2.0,3.0\n"
    keep_lines(path, 2)
    assert path.read_text() == "a,b\n1.0,\n"
    keep_lines(path, 0)
    assert not path.exists()


def test_summary_without_anything_feasible(tmp_path):
    path = tmp_path / "episodes.csv"
    path.write_text("episode,return,feasible\n1,0.5,0\n")
    summary = summarise(path)
    assert (summary.episodes, summary.violations) == (1, 1)
    assert summary.best_feasible_return is summary.episodes_to_first_feasible is None


def test_every_environment_is_closed(monkeypatch, tmp_path):
    made, closed = [], []
    begin = BudgetToyEnv.__init__

    def noted(env, *given, **named):
        made.append(env)
        begin(env, *given, **named)

    monkeypatch.setattr(BudgetToyEnv, "__init__", noted)
    monkeypatch.setattr(BudgetToyEnv, "close", lambda env: closed.append(env))
    out = tmp_path / "run"
    call("--algo", "ppo_lag", *TOY, *QUICK, "--eval-freq", 120, "--timesteps", 120, "--out", out)
    play(*RunFolder.open(out), n_episodes=1)
    assert len(made) > 4
    assert set(map(id, closed)) == set(map(id, made))
