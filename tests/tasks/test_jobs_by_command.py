"""Jobs of every kind by the command: pruned, judged anew, picked, looked at, exported."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from jobs import JOBS, trained
from tiny import call

import prune_gym
from prune_gym.networks.checkpoints import save_weights


def options(job: str, folder: Path) -> list:
    """A job in the words of the command."""
    weights = folder / f"{job}.safetensors"
    save_weights(trained(job), weights)
    given = [
        "--network",
        f"jobs:{JOBS[job][0].__name__}",
        "--dataset",
        f"jobs:{job}_data",
        "--weights",
        weights,
    ]
    for name, value in JOBS[job][2].items():
        given += [f"--{name}", value]
    return given


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Gives the run folder of a job, and what the command said; each is run once."""
    runs = {}

    def run_of(job: str) -> tuple[Path, str]:
        if job not in runs:
            folder = tmp_path_factory.mktemp(job)
            search = ["--algo", "random", "--timesteps", 24, "--finetune-steps", 8]
            given = [*options(job, folder), *search, "--criterion", "taylor"]
            said = call("prune", *given, "--budget", "params=0.6", "--out", folder / "run")
            runs[job] = folder / "run", said
        return runs[job]

    return run_of


@pytest.mark.parametrize("job", JOBS)
def test_a_job_by_the_command(job, finished):
    run, said = finished(job)
    metric = JOBS[job][2].get("metric", "accuracy")
    for words in (f"validation {metric}", f"test {metric}, fine-tuned"):
        assert words in said
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["metric"] == {"name": metric, "higher_is_better": True}
    page = (run / "report.html").read_text()
    assert f"validation {metric}, fine-tuned" in page
    assert metric == "accuracy" or "ccuracy" not in page
    with (run / "episodes.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    expected = {"accuracy"} if metric == "accuracy" else {"reward", f"metric_{metric}"}
    assert expected == {"accuracy", "reward", f"metric_{metric}"}.intersection(columns)


def test_what_is_done_with_a_run_names_its_metric(finished, tmp_path):
    run, _ = finished("segmentation")
    metrics = json.loads((run / "metrics.json").read_text())
    judged = call("evaluate", run, "--trust")
    assert f"test mean_iou {metrics['accuracy']['finetuned_test']:.4f}" in judged
    assert f"mean_iou {metrics['accuracy']['finetuned_test']:.4f} (unpr" in call("inspect", run)
    call("export", run, "--trust", "--format", "pt2", "--out", tmp_path / "network.pt2")
    assert (tmp_path / "network.pt2").is_file()


def test_a_metric_a_loss_and_a_training_of_ones_own_by_the_command(tmp_path):
    run = tmp_path / "run"
    own = ["--metric", "jobs:WORST_ERROR", "--loss", "torch.nn:SmoothL1Loss"]
    own += ["--fine-tune", "jobs:train_regressor"]
    given = [*options("regression", tmp_path)[:6], *own, "--budget", "params=0.6"]
    search = ["--algo", "random", "--timesteps", 24, "--finetune-steps", 30, "--out", run]
    said = call("prune", *given, *search)
    assert "validation worst_error, fine-tuned" in said
    scores = json.loads((run / "metrics.json").read_text())["accuracy"]
    assert scores["finetuned_validation"] < scores["recovered_validation"]  # an error
    settings = json.loads((run / "config.json").read_text())["problem"]
    assert settings["metric"] == "jobs:WORST_ERROR"
    assert call("evaluate", run, code=2).count("--trust")
    picked = call("pick", run, "--trust", "--budget", "params=0.8", "--finetune-steps", 2)
    assert "validation worst_error" in picked
    assert prune_gym.load_pruned(run, trust=True) is not None


def test_runs_of_before_are_read_as_before(finished, tmp_path):
    """No metric in their files: they are of accuracy."""
    run = shutil.copytree(finished("two_inputs")[0], tmp_path / "run")
    for name in ("config.json", "metrics.json"):
        file = run / name
        content = json.loads(file.read_text())
        content.pop("metric", None)
        content.get("fine_tuned", {}).pop("metric", None)
        for key in ("metric", "loss", "output", "fine_tune", "collate"):
            content.get("problem", {}).pop(key, None)
        file.write_text(json.dumps(content))
    (run / "examples.safetensors").unlink()
    scores = json.loads((run / "metrics.json").read_text())["accuracy"]
    judged = call("evaluate", run, "--trust")
    assert f"test accuracy {scores['finetuned_test']:.4f}" in judged
    assert f"{scores['finetuned_test']:.4f} (unpruned network" in call("inspect", run)
    picked = call("pick", run, "--trust", "--budget", "params=0.8", "--finetune-steps", 2)
    assert "validation accuracy" in picked


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--metric", "mean_io"], "unknown metric 'mean_io'. Did you mean 'mean_iou'"),
        (["--loss", "msee"], "unknown loss 'msee'. Did you mean 'mse'"),
        (["--fine-tune", "jobs:nothing_here"], "nothing_here"),
        (["--fine-tune", "jobs"], "fine_tune 'jobs': expected 'module:function'"),
        (["--output", "aut"], "output='aut': the network gives one tensor"),
        (["--metric", "mean_iou"], "metric 'mean_iou': outputs are"),
        (["--loss", "cross_entropy"], "loss 'cross_entropy': outputs are"),
    ],
)
def test_what_does_not_fit_is_named_by_the_command(given, words, tmp_path):
    job = options("regression", tmp_path)
    said = call("prune", *job, *given, "--out", tmp_path / "run", code=2)
    assert words in " ".join(said.split())
    assert not (tmp_path / "run").exists()
