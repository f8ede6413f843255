"""What a user meets at the prompt: help, versions, numbers, progress, warnings."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from rich.console import Console
from tiny import call
from typer.testing import CliRunner

import prune_gym
from agents import compare, enjoy, train
from agents.arguments import whole_number
from agents.runs.folder import RunConfig
from prune_gym.cli.console import progress_bar
from prune_gym.cli.main import app
from prune_gym.cli.pretrain import PretrainConfig
from prune_gym.cli.remarks import warn_of_loss
from prune_gym.networks.checkpoints import save_weights
from prune_gym.searches.algorithms import algorithms

COMMANDS = ("prune", "pick", "list", "inspect", "evaluate", "export", "pretrain")
MODULES = {"train": train.app, "enjoy": enjoy.app, "compare": compare.app}
HUGE = "1" + 30 * "0"


def said_by(module: str, *arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(MODULES[module], [str(argument) for argument in arguments])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("command")
    save_weights(tiny.build("vgg"), folder / "vgg.safetensors")
    options = ["--network", "tiny:cli_network", "--dataset", "tiny:cli_dataset"]
    more = ["--weights", folder / "vgg.safetensors", "--finetune-steps", 1, "--algo", "random"]
    call(
        "prune", *options, *more, "--budget", "params=0.5", "--timesteps", 60, "--out", folder / "r"
    )
    return folder / "r"


# -- help, version, completion ---------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_version_of_every_command(command):
    assert "<bool>" not in call(command, "-h")
    assert call(command, "--version") == "prune-gym 0.1.0\n"


@pytest.mark.parametrize("module", MODULES)
def test_help_and_version_of_the_agents_commands(module):
    code, said = said_by(module, "-h")
    assert code == 0
    assert "<bool>" not in said
    assert said_by(module, "--version") == (0, "prune-gym 0.1.0\n")


def test_the_help_shows_what_options_take():
    said = " ".join(call("prune", "-h").split())
    for names in (prune_gym.CRITERIA, prune_gym.RECOVERIES, prune_gym.NETWORKS, algorithms()):
        assert ", ".join(names) in said
    assert "{names}" not in said
    assert "ppo_saute" in said_by("train", "-h")[1]


def test_the_help_of_all_is_quick():
    code = "import sys; from prune_gym.cli.main import app; app(['-h'], standalone_mode=False)"
    code += "; print(sorted({'torch', 'stable_baselines3', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_a_shell_completes_names(monkeypatch):
    words = {"COMP_WORDS": "prune-gym prune --structure f", "COMP_CWORD": "3"}
    asked = {**words, "_PRUNE_GYM_COMPLETE": "complete_bash"}
    done = CliRunner().invoke(app, [], env=asked, prog_name="prune-gym")
    assert done.output.strip() == "filter"


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (
            ["prune", "--finetune-steps", HUGE],
            "a whole number of at least 0 and at most 10,000,000",
        ),
        (
            ["prune", "--finetune-steps", "10**30"],
            "a whole number of at least 0 and at most 10,000",
        ),
        (["prune", "--timesteps", 0], "a whole number of at least 1 and at most 1,000,000,000"),
        (["prune", "--seed", 2**32], "a whole number of at least 0 and at most 2,147,483,647"),
        (["prune", "--round-to", HUGE], "a whole number of at least 1 and at most 1,000,000"),
        (["prune", "--evaluation-samples", 1.5], "a whole number of at least 1"),
        (["prune", "--distillation", "nan"], "a number of at least 0 and at most 1"),
        (
            ["pick", "gone", "--budget", "params=0.5", "--finetune-steps", -1],
            "a whole number of at",
        ),
        (
            ["pretrain", "small", "--epochs", HUGE],
            "a whole number of at least 1 and at most 100,000",
        ),
        (["pretrain", "small", "--batch-size", 0], "a whole number of at least 1"),
        (["pretrain", "small", "--learning-rate", "inf"], "a number of at least 1e-09 and at most"),
        (
            ["pretrain", "small", "--learning-rate", "1e30"],
            "a number of at least 1e-09 and at most",
        ),
        (
            ["pretrain", "small", "--learning-rate", -1],
            "a number of at least 1e-09 and at most 100",
        ),
    ],
    ids=str,
)
def test_impossible_numbers(tmp_path, monkeypatch, arguments, allowed):
    monkeypatch.chdir(tmp_path)
    said = call(*arguments, code=2)
    assert said.startswith(f"error: {arguments[-2]} {arguments[-1]} must be {allowed}")
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("train", ["--timesteps", HUGE]),
        ("train", ["--n-envs", 10_000]),
        ("train", ["--eval-freq", 0]),
        ("train", ["--eval-episodes", HUGE]),
        ("train", ["--cost-limit", "nan"]),
        ("train", ["--checkpoint-every", "inf"]),
        ("train", ["--seed", -1]),
        ("enjoy", ["gone", "--episodes", HUGE]),
        ("compare", ["gone", "--reps", HUGE]),
        ("compare", ["gone", "--infeasible-score", "nan"]),
    ],
    ids=str,
)
def test_impossible_numbers_of_the_agents(module, arguments):
    code, said = said_by(module, *arguments)
    assert code == 2
    assert said.startswith(f"error: {arguments[-2]} {arguments[-1]} must be a ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"round_to": 128},
            "round_to=128 leaves every filter group whole: the widest has 128 filt",
        ),
        ({"round_to": 10**7}, "round_to=10000000 must be a whole number of at least 1 and at most"),
        ({"seed": 2**40}, "seed=1099511627776 must be a whole number of at least 0 and at most 2,"),
        (
            {"recovery_steps": 10**5000},
            "recovery_steps=an int of 16610 bits must be a whole number",
        ),
        ({"batch_size": 10**12}, "batch_size=1000000000000 must be a whole number of at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_impossible_numbers_in_python(arguments, message):
    with pytest.raises(ValueError, match=message):
        prune_gym.make_problem(**arguments)


def test_impossible_numbers_of_a_training():
    with pytest.raises(ValueError, match="learning_rate=nan must be a number of at least 1e-09"):
        PretrainConfig("small", "digits", learning_rate=float("nan")).check()
    with pytest.raises(ValueError, match="epochs=0 must be a whole number of at least 1"):
        PretrainConfig("small", "digits", epochs=0).check()
    with pytest.raises(ValueError, match="n_envs is 0; it must be at least 1 and at most 4,096, a"):
        RunConfig(algo="ppo_lag", env="x", n_envs=0).check_numbers()
    with pytest.raises(ValueError, match="n is True; it must be at least 0"):
        whole_number("n", True, 0, 9)


# -- progress --------------------------------------------------------------------------------------


def shown(width: int, **environ: str) -> str:
    """What a search and a fine-tuning leave on a terminal of that width."""
    out = io.StringIO()
    env = {"TERM": "xterm", **environ}
    console = Console(file=out, width=width, force_terminal=True, _environ=env)
    with progress_bar(console) as bar:
        task = bar.add_task("searching", total=1500, detail="")
        bar.update(
            task,
            completed=700,
            detail="best 0.912  cost 0.101/0.1  multiplier 12.34  known 123",
        )
        bar.add_task("fine-tuning", total=300, detail="loss 0.123")
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_progress_is_one_readable_line(width):
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown(width)).replace("\r", "\n").splitlines()
    searching = [line.rstrip() for line in lines if line.startswith("searching")]
    assert searching
    assert all(len(line) <= width and "700/1500" in line for line in searching[-1:])
    assert "…" not in "".join(lines)
    assert ("best 0.912" in searching[-1]) == (width >= 40)
    assert ("cost 0.101/0.1" in searching[-1]) == (width >= 80)
    assert ("known 123" in searching[-1]) == (width >= 120)


def test_progress_without_colour_and_on_dumb_terminals():
    assert not re.search(r"\x1b\[[0-9;]*3\d", shown(80, NO_COLOR="1"))
    assert shown(80, TERM="dumb").strip() == ""


# -- inspect, export, pick -------------------------------------------------------------------------


def test_inspect_shows_floors_and_what_limits_need():
    said = call("inspect", "small")
    assert re.search(r"params +579,498 +116 +0\.0002 +30% +55% +70%", said)
    assert said == call("inspect", "--network", "small")
    both = call("inspect", "small", "--network", "vgg11", code=2)
    assert "NETWORK 'small' and --network 'vgg11' are both given; give one of them." in both


def test_inspect_a_run(run, tmp_path):
    said = call("inspect", run)
    for words in (
        "criterion",
        "bn_scale",
        "random, seed 0, 60 timesteps",
        "params=0.5",
        "20 networks",
    ):
        assert words in said
    assert "what filters are left" in said
    refused = call("inspect", run, "--dataset", "digits", code=2)
    assert "which knows its own; leave it out." in refused
    nothing = call("inspect", tmp_path, code=2)
    assert "is neither a network's name nor a run folder: it holds no config.json." in nothing


def test_inspect_a_network_without_weights(own_cache):
    said = call("inspect", "small_resnet")
    assert "not trained: no trained weights of network 'small_resnet'" in said
    assert "layers cut together" in said


def test_export_has_a_default(run, tmp_path):
    said = call("export", run, "--network", "small", "--out", tmp_path / "out", code=2)
    assert "tensor" in said  # another network; the format was not asked for
    call("export", run, "--trust", "--out", tmp_path)
    assert (tmp_path / "network.pt2").is_file()


def test_pick_says_that_it_evaluated_none(run, tmp_path):
    said = call("pick", run, "--trust", "--budget", "macs=0.9", "--out", tmp_path / "picked")
    assert re.search(r"0 networks evaluated; chosen from the 20 of the run, in \d+ s", said)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (0.95, ""),
        (0.7, "the limit costs 0.2900 of validation accuracy (0.7000; unpruned 0.9900). Raise it"),
        (0.12, "validation accuracy 0.1200 is hardly better than guessing among 10 classes"),
    ],
)
def test_lost_accuracy_is_warned_of(default_problem, score, words):
    out = io.StringIO()
    scores = {"finetuned_validation": score, "dense_validation": 0.99}
    warn_of_loss(default_problem, {"accuracy": scores}, Console(file=out))
    assert words in out.getvalue()
    assert bool(out.getvalue()) == bool(words)


@pytest.mark.parametrize(
    ("seen", "recovery", "candidates", "words"),
    [
        (0.5, "bn", 1, "Raise it, fine-tune longer (--finetune-steps), or search longer."),
        (
            0.12,
            "bn",
            1,
            "was hardly better than guessing (0.1200): it had little to go by. --recovery finetune "
            "trains each network a little; or --candidates 8 fine-tunes several; or raise the "
            "limit.",
        ),
        (0.12, "bn", 8, "by. --recovery finetune trains each network a little; or raise the"),
        (0.12, "finetune", 1, "little to go by. --candidates 8 fine-tunes several; or raise the"),
        (0.12, "finetune", 8, "it had little to go by. Raise the limit."),
    ],
)
def test_a_search_that_saw_only_guesses_gets_other_cures(
    default_problem, seen, recovery, candidates, words
):
    out = io.StringIO()
    scores = {"finetuned_validation": 0.7, "dense_validation": 0.99, "recovered_validation": seen}
    metrics = {"accuracy": scores, "candidates": candidates}
    problem = replace(default_problem, recovery=prune_gym.RECOVERIES.get(recovery))
    warn_of_loss(problem, metrics, Console(file=out, width=400))
    assert words in out.getvalue()


@pytest.mark.parametrize(
    ("size", "score", "best", "words"),
    [
        (1.0, -0.8433, None, "validation neg -0.8433 (unpruned -0.1033)"),
        (1.0, -0.8433, -0.05, "validation neg -0.8433 (the run's best -0.0500)"),
        (1.0, -0.105, None, ""),
        (1e4, -0.105, None, ""),
        (1e-4, -0.8433, None, "the limit costs a lot"),
    ],
)
def test_a_lost_metric_without_ends_is_warned_of(default_problem, size, score, best, words):
    task = replace(default_problem.task, metric=prune_gym.Metric(max, "neg"))
    scores = {"finetuned_validation": size * score, "dense_validation": size * -0.1033}
    out = io.StringIO()
    further = {} if best is None else {"best": best}
    console = Console(file=out, width=300)
    warn_of_loss(replace(default_problem, task=task), {"accuracy": scores}, console, **further)
    assert words in out.getvalue()
    assert bool(out.getvalue()) == bool(words)


def test_the_report_names_the_settings(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    for name, value in (
        ("criterion", "bn_scale"),
        ("recovery", "bn"),
        ("seed", "0"),
        ("timesteps", "60"),
        ("networks evaluated", "20"),
    ):
        assert f"<td>{name}</td><td>{value}</td>" in page
    assert "random: Independent uniform prune ratios per layer." in page
    assert "fine-tuning</td><td>1 steps</td>" in page
    assert json.loads((run / "versions.json").read_text())["torch"] in page
