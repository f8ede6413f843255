"""The command ``prune-gym``: search, inspect, evaluate, pretrain. Heavy imports wait for use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape

from agents.console import plain_warnings
from agents.options import Command, command_app
from agents.stopping import take_over
from prune_gym.cli import options
from prune_gym.cli.cluster import OPTIONS, cluster_of, in_cluster
from prune_gym.cli.console import user_errors
from prune_gym.errors import InvalidValueError
from prune_gym.utils.files import user_path

if TYPE_CHECKING:
    from prune_gym.budgets import BudgetKey
    from prune_gym.cluster.workers import RayWorkers
    from prune_gym.searches.config import SearchConfig

app = command_app(no_args_is_help=True)
console = Console(soft_wrap=True, emoji=False)


def main() -> None:
    """Entry point of the command."""
    take_over()  # signals, where the import of the package did not
    plain_warnings()
    app()


@app.callback()
def common(version: options.Version = False) -> None:
    """Prune a trained network under a budget: a problem of constrained reinforcement learning."""


@app.command(cls=Command, short_help="Search for the best network within a budget, and finish it.")
def prune(
    context: typer.Context,
    env: options.Env = None,
    network: options.EnvNetwork = None,
    dataset: options.EnvDataset = None,
    weights: options.Weights = None,
    budget: options.Budget = None,
    algo: options.Algo = None,
    evaluations: options.Evaluations = None,
    timesteps: options.Timesteps = None,
    seed: options.Seed = 0,
    out: options.RunOut = None,
    resume: options.ResumeRun = None,
    finish: options.Finish = False,
    metric: options.Metric = "accuracy",
    loss: options.Loss = None,
    output: options.Output = None,
    fine_tune: options.FineTune = None,
    criterion: options.Criterion = "auto",
    recovery: options.Recovery = "bn",
    structure: options.Structure = "filter",
    round_to: options.RoundToOrFast = None,
    depth: options.Depth = False,
    ignore: options.Ignore = None,
    evaluation_samples: options.EvaluationSamples = None,
    precision: options.JudgedIn = "float32",
    finetune_steps: options.FinetuneSteps = None,
    distillation: options.Distillation = 0.0,
    candidates: options.Candidates = 1,
    ema: options.Ema = 0.0,
    rounds: options.Rounds = 1,
    hard: options.Hard = False,
    racing: options.Racing = True,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    workers: options.WorkersOfRay = None,
    ray_address: options.RayAddress = None,
    gpus_per_worker: options.GpusPerWorker = 0.0,
    measure_on: options.MeasureOn = None,
    evaluation_timeout: options.EvaluationTimeout = 3600.0,
    version: options.Version = False,
) -> None:
    """Search for the best network within the budget, fine-tune it, test it, report it."""
    with user_errors("stopped; a run that was begun goes on with prune-gym prune --resume RUN."):
        _refuse_what_does_not_go_together(context)
        cluster = cluster_of(context.params, console)
        if resume is None:
            _start(context.params, cluster)
            return
        from prune_gym.cli import prune as command
        from prune_gym.cli import rounds as in_rounds

        how: Any = {"trust": trust, "evaluations": evaluations, "cluster": cluster}
        go_on = in_rounds.resume if in_rounds.are_in(user_path(resume)) else command.resume
        go_on(user_path(resume), timesteps, finish, console, **how)


def _start(given: Mapping[str, Any], cluster: RayWorkers | None) -> None:
    """Begin a run, from the options."""
    from prune_gym.cli import prune as command
    from prune_gym.cli import rounds as in_rounds
    from prune_gym.searches.algorithms import usual_algorithm
    from prune_gym.searches.search import env_id

    env, algo = given["env"], given["algo"]
    env = env_id("layer", given["structure"], given["hard"]) if env is None else env
    problem = _problem_arguments(given, command.environment(env))
    algo = usual_algorithm(env) if algo is None else algo
    out = given["out"]
    folder = _free_folder(f"{algo}-{given['seed']}") if out is None else user_path(out)
    config = _search_config({**given, "env": env, "algo": algo})
    start = in_rounds.start if given["rounds"] > 1 else command.start
    start(config, problem, folder, console, given["evaluations"], cluster)


def _refuse_what_does_not_go_together(context: typer.Context) -> None:
    """Raise InvalidValueError for options of a search that exclude each other."""
    given = context.params
    lengths = [name for name in ("evaluations", "timesteps") if given[name] is not None]
    if len(lengths) > 1:
        raise InvalidValueError(
            "--evaluations and --timesteps both say how long the search is; give one of them."
        )
    if given["resume"] is None:
        for name in ("finish", "trust"):
            if given[name]:
                raise InvalidValueError(f"--{name} goes with --resume RUN only.")
        return
    _refuse_beside_resume(context)
    if given["finish"] and lengths:
        raise InvalidValueError(
            f"--finish ends a run as it stands, and --{lengths[0]} makes it longer; give one."
        )


def _search_config(given: Mapping[str, Any]) -> SearchConfig:
    """How to search, from the options."""
    from prune_gym.searches import config

    same = ("algo", "seed", "hard", "racing", "rounds")
    after = ("finetune_steps", "distillation", "ema", "candidates")
    return config.SearchConfig(
        env=given["env"],
        timesteps=given["timesteps"] or 0,
        problem={},
        **{name: given[name] for name in (*same, *after)},
    )


def _problem_arguments(given: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `make_problem` from the options; what is not given is the environment's."""
    from prune_gym.datasets import absolute_name
    from prune_gym.problem.fast_widths import usual_multiple

    same = ("criterion", "recovery", "structure", "depth", "evaluation_samples")
    asked = ("metric", "loss", "output", "fine_tune")  # left out where they are as always
    budget, weights = given["budget"], given["weights"]
    budgets = parse_budgets(budget) if budget else named.get("budgets", {"params": 0.1})
    return {
        "network": given["network"] or named.get("network", "small"),
        "dataset": absolute_name(given["dataset"] or named.get("dataset", "digits")),
        "budgets": budgets,
        "round_to": given["round_to"] or usual_multiple(budgets),
        **{name: given[name] for name in (*same, "precision", "device")},
        **{name: given[name] for name in asked if given[name] not in (None, "accuracy")},
        "ignore": given["ignore"] or [],
        "weights": None if weights is None else str(user_path(weights).resolve()),
    }


@app.command(cls=Command, short_help="Answer for other limits out of a run, without a search.")
def pick(
    context: typer.Context,
    run: options.Run,
    budget: options.OtherLimits,
    finetune_steps: options.PickedSteps = None,
    candidates: options.PickedCandidates = None,
    out: options.PickedOut = None,
    trust: options.Trust = False,
    workers: options.WorkersOfRay = None,
    ray_address: options.RayAddress = None,
    gpus_per_worker: options.GpusPerWorker = 0.0,
    measure_on: options.MeasureOn = None,
    version: options.Version = False,
) -> None:
    """Answer for other limits out of a run, without a new search."""
    from prune_gym.cli.pick import pick as picked

    with user_errors("stopped."):
        out = None if out is None else user_path(out)
        limits = parse_budgets(budget)
        cluster = cluster_of(context.params, console)
        asked = {"finetune_steps": finetune_steps, "candidates": candidates}
        other = {name: value for name, value in asked.items() if value is not None}
        with in_cluster(cluster):
            picked(user_path(run), limits, other, out, console, trust=trust, cluster=cluster)


@app.command("list", cls=Command, short_help="Name networks, criteria, budgets and more.")
def list_rows(kind: options.Kind = "", version: options.Version = False) -> None:
    """List environments, networks, datasets, criteria, budgets, recoveries and algorithms."""
    from prune_gym.cli.listing import print_listing

    with user_errors():
        print_listing(kind, console)


@app.command(cls=Command, short_help="Show what a network, or a run, is made of.")
def inspect(
    network: options.Inspected = None,
    named: options.InspectedNetwork = None,
    dataset: options.InspectedDataset = None,
    weights: options.Weights = None,
    depth: options.Depth = False,
    sensitivity: options.Sensitivity = False,
    version: options.Version = False,
) -> None:
    """Print the filter groups of a network and what limits it can meet, or what a run holds."""
    from prune_gym.cli.inspection import inspect as look

    with user_errors():
        if network is not None and named is not None:
            raise InvalidValueError(
                f"NETWORK {network!r} and --network {named!r} are both given; give one of them."
            )
        weights = None if weights is None else user_path(weights)
        what = os.path.expanduser(network or named or "small")
        look(what, dataset, weights, console, depth=depth, sensitivity=sensitivity)


@app.command(cls=Command, short_help="Judge the network of a run anew.")
def evaluate(
    run: options.Run, trust: options.Trust = False, version: options.Version = False
) -> None:
    """Load the pruned network of a run and judge it anew: costs, validation, test."""
    from prune_gym.cli import prune as command

    with user_errors():
        command.evaluate(user_path(run), console, trust=trust)


@app.command(cls=Command, short_help="Write the network of a run as pt2 or ONNX.")
def export(
    run: options.Saved,
    formats: options.Formats = None,
    out: options.ExportOut = None,
    network: options.UnprunedNetwork = None,
    trust: options.Trust = False,
    version: options.Version = False,
) -> None:
    """Write the pruned network of a run as pt2 or ONNX; each file is checked against torch."""
    from prune_gym.cli.export import export_run

    with user_errors():
        out = None if out is None else user_path(out)
        run, formats = user_path(run), formats or ["pt2"]
        for path, difference in export_run(run, formats, out, network, trust=trust):
            console.print(
                f"{escape(str(path))}: {path.stat().st_size:,} bytes, within {difference:.1e} of "
                "torch's outputs"
            )


@app.command(cls=Command, short_help="Train a network; environments find its weights.")
def pretrain(
    network: options.Trained,
    dataset: options.Dataset = "digits",
    epochs: options.Epochs = None,
    seed: options.TrainingSeed = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    precision: options.Precision = "auto",
    init: options.Init = None,
    device: options.Device = "auto",
    out: options.WeightsOut = None,
    resume: options.ResumeTraining = False,
    version: options.Version = False,
) -> None:
    """Train a network and save its weights where environments find them."""
    from prune_gym.cli.pretrain import PretrainConfig
    from prune_gym.cli.pretrain import pretrain as train

    with user_errors("stopped; where the training's state was saved, --resume goes on with it."):
        config = PretrainConfig(
            network,
            dataset,
            epochs,
            seed,
            batch_size,
            learning_rate,
            precision,
            None if init is None else str(user_path(init)),
        )
        train(config, None if out is None else user_path(out), device, resume, console)


@app.command(cls=Command, short_help="Train a grid of agents in a Ray cluster, and compare them.")
def sweep(
    file: options.SweepFile,
    out: options.SweepOut = Path("runs/sweep"),
    workers: options.SweepWorkers = 1,
    ray_address: options.RayAddress = None,
    gpus_per_worker: options.GpusPerWorker = 0.0,
    trust: options.Trust = False,
    version: options.Version = False,
) -> None:
    """Train every combination of a grid; the same command goes on with what is not finished."""
    from agents.ray_tasks import Cluster
    from agents.sweep.report import run_sweep

    with user_errors("stopped; the same command goes on."):
        cluster = Cluster(workers, ray_address, gpus=gpus_per_worker)
        run_sweep(user_path(file), user_path(out), cluster, trust=trust)


def _free_folder(name: str) -> Path:
    """``runs/NAME``, or ``runs/NAME-2`` and so on where that is taken."""
    folder = Path("runs") / name
    number = 2
    while os.path.lexists(folder):
        folder = Path("runs") / f"{name}-{number}"
        number += 1
    return folder


def parse_budgets(given: list[str]) -> dict[BudgetKey, float | str]:
    """``["params=0.1", "latency_ms=2ms"]`` -> ``{"params": 0.1, "latency_ms": "2ms"}``.

    The last "=" parts name and limit, so that a command may hold others.

    Raises:
        ValueError: not of the form NAME=LIMIT, or a name given twice.
    """
    from prune_gym.budgets import budget_key
    from prune_gym.budgets.limits import is_limit

    limits: dict[BudgetKey, float | str] = {}
    for option in given:
        name, separator, limit = option.rpartition("=")
        if not separator or not name or not is_limit(limit):
            raise InvalidValueError(
                f"--budget {option!r}: expected NAME=LIMIT, e.g. params=0.1 or latency_ms=2ms."
            )
        key = budget_key(name)
        if key in limits:
            raise InvalidValueError(f"--budget {name!r} is given twice; give one limit for it.")
        try:
            number = float(limit)
        except ValueError:
            number = float("nan")
        limits[key] = number if 0 < number <= 1 else limit
    return limits


def _refuse_beside_resume(context: typer.Context) -> None:
    """A resumed run keeps its settings; options that would be ignored are refused."""
    for name in context.params:
        source = context.get_parameter_source(name)
        given = source is not None and source.name == "COMMANDLINE"
        keeps = ("resume", "timesteps", "evaluations", "finish", "trust", *OPTIONS)
        if given and name not in keeps:
            raise InvalidValueError(
                f"--{name.replace('_', '-')} cannot go with --resume, which keeps the settings of "
                "the run; only --evaluations may change. Start a new run with --out."
            )
