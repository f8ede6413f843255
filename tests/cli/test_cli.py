"""The command: end to end in a temporary folder, Ctrl-C, resuming, and every wrong input."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import call

import prune_gym
from prune_gym.budgets import CommandSpec
from prune_gym.cli.main import parse_budgets
from prune_gym.networks.checkpoints import save_weights
from prune_gym.searches.fine_tuning import FineTuned
from prune_gym.training.evaluation import accuracy

MAIN = [sys.executable, "-c", "from prune_gym.cli.main import main; main()"]


@pytest.fixture(scope="session")
def tiny_options(tmp_path_factory) -> list:
    """A network and data on which a search takes a moment."""
    weights = tmp_path_factory.mktemp("weights") / "vgg.safetensors"
    save_weights(tiny.build("vgg"), weights)
    options = ["--network", "tiny:cli_network", "--dataset", "tiny:cli_dataset"]
    return [*options, "--weights", weights, "--finetune-steps", 2]


@pytest.fixture(scope="session")
def tiny_run(tiny_options, tmp_path_factory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    limits = ["--budget", "params=0.5", "--budget", "macs=0.8"]
    call("prune", *tiny_options, *limits, "--algo", "random", "--timesteps", 60, "--out", out)
    return out


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["random", "ppo_lag"])
def test_prune_end_to_end(tmp_path, default_problem, algo):
    run = tmp_path / "run"
    said = call(
        *("prune", "--algo", algo, "--timesteps", 96, "--budget", "params=0.5", "--seed", 3),
        *("--finetune-steps", 3, "--out", run),
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["feasible"] is True
    assert metrics["limits"] == {"params": 0.5}
    assert metrics["costs"]["params"] <= 0.5
    assert metrics["evaluations"] == len(rows_of(run)) == 12
    assert (metrics["seed"], metrics["algo"]) == (3, algo)
    assert metrics["wall_s"] > 0.0
    scores = metrics["accuracy"]
    assert {"dense_validation", "dense_test", "raw_validation", "recovered_validation"} < set(
        scores
    )
    assert all(0.0 <= score <= 1.0 for score in scores.values())
    network = prune_gym.load_pruned(run)
    size = sum(p.numel() for p in network.parameters())
    assert size <= 0.5 * default_problem.unpruned_values[0]
    assert size == metrics["pruned"]["params"]
    assert accuracy(network, default_problem.data.test) == scores["finetuned_test"]
    assert default_problem.accuracy(network) == scores["finetuned_validation"]
    best = max(float(row["accuracy"]) for row in rows_of(run) if row["feasible"] == "1")
    assert scores["recovered_validation"] == best
    assert "within the limit 0.5" in said
    assert "12 networks evaluated" in said
    assert (run / "agent.zip").exists() == (algo == "ppo_lag")
    assert {"command.txt", "versions.json", "state.json", "report.html"} <= set(os.listdir(run))
    judged = call("evaluate", "--trust", run)
    assert f"validation accuracy {scores['finetuned_validation']:.4f}" in judged
    assert f"test accuracy {scores['finetuned_test']:.4f}" in judged
    assert "within every limit" in judged


def test_a_run_is_reproducible(tiny_options, tmp_path):
    logs = []
    for name in ("one", "two"):
        arguments = ["--algo", "cem", "--timesteps", 60, "--budget", "params=0.6"]
        call("prune", *tiny_options, *arguments, "--out", tmp_path / name)
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        for measured in ("search_s", "wall_s", "latency_ms", "batch_size"):
            del metrics[measured]
        tensors = (tmp_path / name / "network.safetensors").read_bytes()
        logs.append((metrics, tensors, (tmp_path / name / "episodes.csv").read_text()))
    assert logs[0] == logs[1]


class Links(HTMLParser):
    """Collects what a page loads, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]
        assert tag not in ("script", "link", "iframe", "object")
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_needs_nothing_else(tiny_run):
    text = (tiny_run / "report.html").read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert page.open == []
    assert len(page.links) == 3
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)
    assert "url(" not in text
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert f"{metrics['pruned']['params']:,.0f}" in text
    assert f"{100 * metrics['accuracy']['finetuned_test']:.2f} % (test)" in text
    assert "within the budget" in text
    assert "NOT within" not in text
    for name in ("search", "layers", "networks"):
        assert (tiny_run / "pictures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluate(tiny_run):
    said = call("evaluate", "--trust", tiny_run)
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert f"{metrics['costs']['params']:.4f}" in said
    assert f"{metrics['costs']['macs']:.4f}" in said
    assert f"test accuracy {metrics['accuracy']['finetuned_test']:.4f}" in said


def test_single_weights(tiny_options, tmp_path):
    run = tmp_path / "run"
    arguments = ["--structure", "weight", "--algo", "random", "--timesteps", 60]
    call("prune", *tiny_options, *arguments, "--budget", "params=0.7", "--out", run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["pruned"]["macs"] == metrics["dense"]["macs"]
    assert metrics["pruned"]["params"] <= 0.7 * metrics["dense"]["params"]
    network = prune_gym.load_pruned(run, tiny.cli_network())
    zeros = sum(int((p == 0).sum()) for p in network.parameters() if p.ndim > 1)
    assert zeros == metrics["dense"]["params"] - metrics["pruned"]["params"]
    assert "structure = weight" in (run / "report.html").read_text(encoding="utf-8")
    assert "within every limit" in call("evaluate", "--trust", run)


def test_list():
    said = call("list")
    for registry in ("NETWORKS", "DATASETS", "CRITERIA", "BUDGETS", "RECOVERIES"):
        for name in getattr(prune_gym, registry):
            assert re.search(rf"^\s+{name}\s", said, re.MULTILINE)
    assert all(env_id in said for env_id in (*prune_gym.ENVIRONMENTS, "PruneTable-v1"))
    assert all(name in said for name in ("ppo_lag", "ppo_pid", "cem", "random", "uniform"))
    only = call("list", "budgets")
    assert "size_bytes" in only
    for name in prune_gym.BUDGETS:
        assert f"({prune_gym.BUDGETS.get(name)().unit})" in only
    assert "ppo_lag" not in only
    assert "unknown kind 'budget'. Did you mean 'budgets'?" in call("list", "budget", code=2)


def test_inspect():
    said = call("inspect")
    assert "579,498 parameters, 3,282,176 MACs, 2,323,560 bytes." in said
    assert "One image: 33,792 bytes of feature maps at most, 418.8 uJ by the energy model." in said
    assert said.count("features.") >= 8


def test_pretrain(tiny_options, tmp_path, own_cache):
    file = tmp_path / "new.safetensors"
    data = ["--dataset", "tiny:cli_dataset"]
    said = call("pretrain", "tiny:cli_network", *data, "--epochs", 1, "--out", file)
    assert f"saved: {file}" in said
    assert re.search(r"validation accuracy [01]\.\d{4}, test [01]\.\d{4}", said)
    problem = prune_gym.make_problem(
        "tiny:cli_network", "tiny:cli_dataset", weights=file, budgets={"params": 0.5}
    )
    assert f"validation accuracy {problem.accuracy(problem.network):.4f}" in said
    call("pretrain", "tiny:cli_network", *data, "--epochs", 1)
    cached = own_cache / "tiny.cli_network-tiny.cli_dataset.safetensors"
    assert cached.read_bytes() == file.read_bytes()  # the same seed gives the same weights
    again = prune_gym.make_problem("tiny:cli_network", "tiny:cli_dataset", budgets={"params": 0.5})
    assert again.accuracy(again.network) == problem.accuracy(problem.network)
    cached.unlink()


# -- stopping and going on -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child process")
@pytest.mark.parametrize("algo", ["random", "ppo_lag"])
def test_ctrl_c_keeps_what_was_found_and_resume_goes_on(tmp_path, algo):
    run = tmp_path / "run"
    arguments = ["--timesteps", "40000", "--budget", "params=0.9", "--finetune-steps", "1"]
    process = subprocess.Popen(
        [*MAIN, "prune", "--algo", algo, *arguments, "--out", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            if (run / "episodes.csv").exists() and len(rows_of(run)) >= 4:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert errors == "\nfinishing the networks in hand; Ctrl-C again stops at once\n"
    before = rows_of(run)
    assert f"stopped after {len(before)} networks; best feasible" in said
    assert f"prune-gym prune --resume {run}" in said
    network = prune_gym.load_pruned(run)
    assert sum(p.numel() for p in network.parameters()) <= 0.9 * 579_498
    assert not (run / "metrics.json").exists()

    wanted = len(before) + 5
    call("prune", "--trust", "--resume", run, "--timesteps", 8 * wanted)
    after = rows_of(run)
    assert after[: len(before)] == before
    assert len(after) == wanted
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["evaluations"] == wanted
    assert metrics["feasible"] is True
    assert metrics["wall_s"] > 0.0
    best = max(float(row["accuracy"]) for row in after if row["feasible"] == "1")
    assert metrics["accuracy"]["recovered_validation"] == best


def test_resuming_a_finished_run_adds_nothing(tiny_run, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(tiny_run, run)
    call("prune", "--trust", "--resume", run)
    assert (run / "episodes.csv").read_bytes() == (tiny_run / "episodes.csv").read_bytes()
    kept = (run / "network.safetensors").read_bytes()
    assert kept == (tiny_run / "network.safetensors").read_bytes()
    one, other = (json.loads((path / "metrics.json").read_text()) for path in (run, tiny_run))
    assert one["accuracy"] == other["accuracy"]
    assert one["wall_s"] > other["wall_s"]  # all calls together


def test_resuming_with_more_steps(tiny_run, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(tiny_run, run)
    call("prune", "--trust", "--resume", run, "--timesteps", 90)
    assert rows_of(run)[:20] == rows_of(tiny_run)
    assert len(rows_of(run)) == 30
    assert json.loads((run / "config.json").read_text())["timesteps"] == 90


# -- wrong input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "smal"], "unknown network 'smal'. Did you mean 'small'?"),
        (["--dataset", "digts"], "unknown dataset 'digts'. Did you mean 'digits'?"),
        (["--criterion", "ll"], "unknown criterion 'll'. Did you mean 'l"),
        (["--recovery", "bnn"], "unknown recovery 'bnn'. Did you mean 'bn'?"),
        (["--algo", "ppo_lga"], "unknown algorithm 'ppo_lga'. Did you mean 'ppo_lag'?"),
        (["--structure", "x"], "structure='x' must be one of filter, weight."),
        (["--device", "abacus"], "device='abacus' cannot be used here"),
        (
            ["--budget", "params"],
            "--budget 'params': expected NAME=LIMIT, e.g. params=0.1 or latency_ms=2ms.",
        ),
        (["--budget", "params=much"], "--budget 'params=much': expected NAME=LIMIT"),
        (["--budget", "=0.5"], "--budget '=0.5': expected NAME=LIMIT"),
        (["--budget", "parms=0.5"], "unknown budget 'parms'. Did you mean 'params'?"),
        (["--budget", "params=2"], "is below the floor 0.0002002 (2 parameters; floor 116 param"),
        (["--budget", "params=150%"], "the limit of 'params' is 1.5; it must be a number in (0,"),
        (["--budget", "params=0.00001"], "limit 1e-05 is below the floor"),
        (["--env", "PruneVGG-v9"], "PruneVGG"),
        (["--env", "PruneVG-v0"], "PruneVG"),
        (["--env", "CartPole-v1"], "CartPole-v1"),
        (["--evaluation-samples", "9999"], "more than the 400 validation examples"),
        (["--weights", "gone.safetensors"], "gone.safetensors."),
        (["--resume", "gone"], "gone is no run folder: it holds no config.json."),
        (["--network", "small_resnet"], "prune-gym pretrain small_resnet --dataset digits"),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_is_one_line_and_makes_no_folder(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    said = call("prune", *arguments, code=2)
    assert said.startswith("error: ")
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_taken(tiny_options, tiny_run):
    before = sorted(tiny_run.iterdir())
    said = call("prune", *tiny_options, "--budget", "params=0.5", "--out", tiny_run, code=2)
    assert "holds a run already; choose another folder, or continue it: --resume" in said
    assert sorted(tiny_run.iterdir()) == before


def test_nothing_feasible(tiny_options, tmp_path):
    arguments = ["--algo", "uniform", "--timesteps", 6, "--budget", "params=0.045"]
    problem = prune_gym.make_problem(tiny.cli_network(), tiny.cli_dataset(), budgets={"params": 1})
    floor = float(problem.counted_costs(problem.sizes * 0 + 1)[0])
    arguments[-1] = f"params={floor * 1.01}"
    arguments[1] = "random"
    said = call("prune", *tiny_options, *arguments, "--out", tmp_path / "run", code=1)
    assert "none of 2 evaluated networks meets every limit (lowest cost" in said
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert len(rows_of(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("plan.json", "{", "plan.json is damaged"),
        ("plan.json", None, "holds no plan.json"),
        ("network.safetensors", "x", "is not a readable safetensors file"),
        ("network.safetensors", None, "there is no file"),
    ],
)
def test_a_damaged_run(tiny_run, tmp_path, file, content, message):
    run = tmp_path / "copy"
    shutil.copytree(tiny_run, run)
    (run / file).unlink()
    if content is not None:
        (run / file).write_text(content)
    assert message in call("evaluate", "--trust", run, code=2)
    if file == "config.json":
        assert message in call("prune", "--trust", "--resume", run, code=2)


@pytest.mark.parametrize("file", ["plan.json", "network.safetensors"])
def test_a_network_that_is_lost_is_made_anew_from_the_front(tiny_run, tmp_path, file):
    run = tmp_path / "copy"
    shutil.copytree(tiny_run, run)
    (run / file).write_text("{")
    call("prune", "--trust", "--resume", run)
    assert "within every limit" in call("evaluate", "--trust", run)


@pytest.mark.parametrize("file", ["episodes.csv", "state.json"])
def test_a_damaged_run_is_not_resumed(tiny_run, tmp_path, file):
    run = tmp_path / "copy"
    shutil.copytree(tiny_run, run)
    (run / file).write_text("{\n1\n2\n")
    assert f"{file} is damaged" in call("prune", "--trust", "--resume", run, code=2)


def test_a_damaged_agent_is_named(tiny_options, tmp_path):
    run = tmp_path / "run"
    options = ["--algo", "ppo_lag", "--timesteps", 30, "--budget", "params=0.9"]
    call("prune", *tiny_options, *options, "--out", run)
    (run / "agent.zip").write_bytes(b"x")
    said = call("prune", "--trust", "--resume", run, "--timesteps", 60, code=2)
    assert "agent.zip" in said


def test_parse_budgets():
    assert parse_budgets(["params=0.1", "a.b:c=1"]) == {"params": 0.1, "a.b:c": 1.0}
    given = ["latency_ms=2ms", "macs=5M", "params=58000", "size_bytes=20%"]
    limits = {"latency_ms": "2ms", "macs": "5M", "params": "58000", "size_bytes": "20%"}
    assert parse_budgets(given) == limits
    here = Path.cwd()
    command = "./m --x=3 {onnx}"
    assert parse_budgets([f"command:{command}=0.5"]) == {CommandSpec(command, str(here)): 0.5}
    for wrong in ("params=nan", "params=", "params", "=1", "params=ms"):
        with pytest.raises(ValueError, match=f"--budget '{wrong}': expected NAME=LIMIT"):
            parse_budgets([wrong])
    with pytest.raises(ValueError, match="--budget 'params' is given twice; give one limit for it"):
        parse_budgets(["params=0.1", "params=0.2"])


def test_bugs_keep_their_traceback(monkeypatch):
    def bug(kind, console):
        raise KeyError("a bug")

    monkeypatch.setattr("prune_gym.cli.listing.print_listing", bug)
    with pytest.raises(KeyError, match="a bug"):
        call("list")


def test_help_and_installed_command():
    said = call("--help")
    assert all(name in said for name in ("prune", "list", "inspect", "evaluate", "pretrain"))
    done = subprocess.run([*MAIN, "list", "budgets"], capture_output=True, text=True, check=True)
    assert "params" in done.stdout
    wrong = subprocess.run([*MAIN, "list", "budget"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: unknown kind 'budget'")


def test_finish_searches_no_longer_and_keeps_the_settings(tiny_options, tmp_path):
    run = tmp_path / "run"
    limits = ["--budget", "params=0.5", "--algo", "random", "--timesteps", 60]
    call("prune", *tiny_options, *limits, "--out", run)
    for name in ("metrics.json", "report.html"):
        (run / name).unlink()
    before, config = rows_of(run), (run / "config.json").read_text()
    call("prune", "--trust", "--resume", run, "--finish")
    assert rows_of(run) == before
    assert (run / "config.json").read_text() == config
    assert (run / "metrics.json").exists()
    assert (run / "report.html").exists()
    assert "--finish" in call("prune", "--finish", "--out", tmp_path / "other", code=2)
    said = call("prune", "--trust", "--resume", run, "--finish", "--timesteps", 900, code=2)
    assert "--finish ends a run as it stands, and --timesteps makes it longer; give one." in said


def test_uniform_cannot_change_its_grid(tiny_options, tmp_path):
    run = tmp_path / "run"
    limits = ["--budget", "params=0.5", "--algo", "uniform", "--timesteps", 24]
    call("prune", *tiny_options, *limits, "--out", run)
    said = call("prune", "--trust", "--resume", run, "--timesteps", 60, code=2)
    assert "cannot change for algo='uniform'" in said


def test_a_damaged_state_is_named(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "state.json").write_text("[]")
    assert "state.json is damaged" in call("prune", "--trust", "--resume", run, code=2)


def test_nothing_infeasible_is_handed_over(tiny_options, tmp_path, monkeypatch):
    run = tmp_path / "run"
    limits = ["--budget", "tiny:rises_when_told=0.5", "--algo", "random", "--timesteps", 30]

    def tune(*_, **__):
        tiny.tell_it_to_rise()
        return FineTuned(0.5, 0.5, recomputed=False, kept=True)

    monkeypatch.setattr("prune_gym.searches.finalize.fine_tune", tune)
    try:
        said = call("prune", *tiny_options, *limits, "--out", run, code=1)
    finally:
        tiny.RISEN.clear()
    assert "after fine-tuning the best network is over a limit" in said
    assert prune_gym.load_pruned(run, trust=True) is not None
    assert not (run / "metrics.json").exists()


# -- what people bring -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """Three classes of grey 8x8 pictures, darker to brighter, as an image folder."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures") / "greys"
    draw = np.random.default_rng(0)
    for part, n in (("train", 30), ("test", 6)):
        for label, name in enumerate(("dark", "grey", "light")):
            (folder / part / name).mkdir(parents=True)
            for index in range(n):
                pixels = draw.integers(80 * label, 80 * label + 60, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
    return folder


def test_own_network_own_pictures_from_training_to_evaluation(image_folder, tmp_path, own_cache):
    given = ["--dataset", f"folder:{image_folder}"]
    said = call("pretrain", "tiny:cli_own_network", *given, "--epochs", 12, "--batch-size", 9)
    (weights,) = own_cache.glob("tiny.cli_own_network-folder.greys-*.safetensors")
    assert f"saved: {weights}" in said
    facts = json.loads(weights.with_suffix(".json").read_text())
    assert facts["test_accuracy"] > 0.8  # brightness is easy to learn
    out = tmp_path / "run"
    options = ["--network", "tiny:cli_own_network", "--budget", "params=0.6", "--algo", "random"]
    shape = ["--round-to", 2, "--ignore", "stem", "--timesteps", 60, "--finetune-steps", 3]
    call("prune", *given, *options, *shape, "--distillation", 0.5, "--out", out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["feasible"]
    assert metrics["distillation"] == 0.5
    assert 0.0 < metrics["search_s"] < metrics["wall_s"]
    plan = json.loads((out / "plan.json").read_text())
    assert all(len(group["kept"]) % 2 == 0 for group in plan["groups"])
    assert all(group["name"] != "stem" for group in plan["groups"])
    assert plan["input_shape"] == [1, 8, 8]
    assert 0.2 < plan["mean"][0] < 0.7  # what whoever runs the network must subtract
    assert 0.1 < plan["std"][0] < 0.4
    network = prune_gym.load_pruned(out, trust=True)
    assert sum(p.numel() for p in network.parameters()) == metrics["pruned"]["params"]
    assert "within every limit" in call("evaluate", "--trust", out)


def test_the_weights_may_be_a_file(image_folder, tmp_path):
    weights = tmp_path / "own.safetensors"
    save_weights(tiny.cli_own_network(), weights)
    options = ["--network", "tiny:cli_own_network", "--weights", weights, "--algo", "uniform"]
    data = ["--dataset", f"folder:{image_folder}", "--timesteps", 8, "--finetune-steps", 0]
    call("prune", *options, *data, "--budget", "params=0.9", "--out", tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()
    save_weights(tiny.build("vgg"), weights)
    said = call("prune", *options, *data, "--out", tmp_path / "other", code=2)
    assert re.search(r"own\.safetensors: tensor '.*' is .* in the file but .* in ResNet", said)
    assert not (tmp_path / "other").exists()


def test_an_environment_brings_its_network_and_data(tmp_path):
    said = call("prune", "--env", "PruneVGG11-CIFAR10-v0", "--out", tmp_path / "run", code=2)
    assert "Make them: prune-gym pretrain vgg11 --dataset cifar10" in said


def test_a_run_goes_on_from_another_folder(image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(image_folder.parent)
    save_weights(tiny.cli_own_network(), "own.safetensors")
    options = ["--network", "tiny:cli_own_network", "--weights", "own.safetensors"]
    more = ["--dataset", "folder:greys", "--algo", "random", "--timesteps", 24, "--out", "run"]
    said = call("prune", *options, *more, "--budget", "params=0.9", "--finetune-steps", 0)
    assert re.search(r"unpruned network: validation accuracy [01]\.\d{4}", said)
    run = image_folder.parent / "run"
    monkeypatch.chdir(tmp_path)
    assert "within every limit" in call("evaluate", "--trust", run)


def test_weights_that_know_nothing_are_noticed(image_folder, tmp_path):
    weights = tmp_path / "own.safetensors"
    network = tiny.cli_own_network()
    with torch.no_grad():
        network.classifier.weight.zero_()  # the same class for every picture
    save_weights(network, weights)
    options = ["--network", "tiny:cli_own_network", "--weights", weights, "--algo", "random"]
    more = ["--dataset", f"folder:{image_folder}", "--timesteps", 6, "--out", tmp_path / "run"]
    said = call("prune", *options, *more, "--budget", "params=0.9", "--finetune-steps", 0)
    assert "warning: that is hardly better than guessing among 3 classes" in said


def test_the_help_names_programs_and_their_unit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "'command[ms]:./measure.sh" in call("prune", "--help")


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "prune_gym", "list", "networks"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "vgg19" in done.stdout


def test_ctrl_c_while_training_and_going_on(tmp_path):
    out = tmp_path / "small.safetensors"
    command = [*MAIN, "pretrain", "small", "--epochs", "6", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # the first epoch is done
        process.send_signal(signal.SIGINT)
        said = first + process.stdout.read()
    assert process.returncode == 130
    assert re.search(r"stopped at step \d+ of 54; saved", said)
    assert f"go on: prune-gym pretrain small --dataset digits --out {out} --resume" in said
    said = call("pretrain", "small", "--epochs", 6, "--out", out, "--resume")
    assert "epoch 6/6" in said
    assert f"saved: {out}" in said
