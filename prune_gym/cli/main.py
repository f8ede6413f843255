"""The command ``prune-gym``: search, inspect, evaluate, pretrain. Heavy imports wait for use."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.stopping import take_over
from prune_gym.cli import options
from prune_gym.cli.console import user_errors
from prune_gym.errors import InvalidValueError

if TYPE_CHECKING:
    from prune_gym.budgets import BudgetKey

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(soft_wrap=True)


def main() -> None:
    """Entry point of the command."""
    sys.path.insert(0, "")  # "module:function" finds modules in the working directory
    take_over()  # signals, where the package's import did not
    app()


def _say_version(asked: bool) -> None:
    if asked:
        console.print(f"prune-gym {version('prune-gym')}", highlight=False)
        raise typer.Exit


@app.callback()
def common(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Prune a trained network under a budget, by constrained reinforcement learning."""


@app.command()
def prune(
    context: typer.Context,
    env: options.Env = "PruneVGG-v0",
    network: options.EnvNetwork = None,
    dataset: options.EnvDataset = None,
    weights: options.Weights = None,
    budget: options.Budget = None,
    algo: options.Algo = "ppo_lag",
    timesteps: options.Timesteps = None,
    seed: options.Seed = 0,
    out: options.RunOut = None,
    resume: options.ResumeRun = None,
    finish: options.Finish = False,
    criterion: options.Criterion = "l1",
    recovery: options.Recovery = "bn",
    structure: options.Structure = "filter",
    round_to: options.RoundTo = 1,
    ignore: options.Ignore = None,
    evaluation_samples: options.EvaluationSamples = None,
    precision: options.JudgedIn = "float32",
    finetune_steps: options.FinetuneSteps = 300,
    distillation: options.Distillation = 0.0,
    hard: options.Hard = False,
    device: options.Device = "cpu",
) -> None:
    """Search for the best network within the budget, fine-tune it, test it, report it."""
    from prune_gym.cli import prune as command
    from prune_gym.searches.run_folder import SearchConfig

    with user_errors("stopped; a run that was begun goes on with prune-gym prune --resume RUN."):
        if resume is not None:
            _refuse_beside_resume(context)
            command.resume(resume, timesteps, finish, console)
            return
        if finish:
            raise InvalidValueError("--finish goes with --resume RUN only.")
        named = command.environment(env)
        problem = {
            "network": network or named.get("network", "small"),
            "dataset": _settled(dataset or named.get("dataset", "digits")),
            "budgets": parse_budgets(budget) if budget else named.get("budgets", {"params": 0.1}),
            "criterion": criterion,
            "recovery": recovery,
            "structure": structure,
            "round_to": round_to,
            "ignore": ignore or [],
            "evaluation_samples": evaluation_samples,
            "precision": precision,
            "device": device,
            "weights": None if weights is None else str(weights.resolve()),
        }
        config = SearchConfig(
            env, algo, timesteps or 12_000, seed, finetune_steps, {}, distillation, hard
        )
        command.start(config, problem, out or _free_folder(f"{algo}-{seed}"), console)


@app.command()
def pick(
    run: options.Run,
    budget: options.OtherLimits,
    finetune_steps: options.PickedSteps = None,
    out: options.PickedOut = None,
) -> None:
    """Answer for other limits out of a run, without a new search."""
    from prune_gym.cli.pick import pick as picked

    with user_errors("stopped."):
        picked(run, parse_budgets(budget), finetune_steps, out, console)


@app.command(name="list")
def list_rows(
    kind: Annotated[str, typer.Argument(help="One kind only, e.g. budgets.")] = "",
) -> None:
    """List environments, networks, datasets, criteria, budgets, recoveries and algorithms."""
    with user_errors():
        tables = _listings()
        if kind and kind not in tables:
            from prune_gym.utils.registry import unknown_name

            raise unknown_name("kind", kind, list(tables))
        for name in [kind] if kind else tables:
            table = Table(title=name, title_justify="left", box=None, show_header=False)
            for row, words in tables[name].items():
                table.add_row(f"  {row}", words)
            console.print(table)


@app.command()
def inspect(
    network: options.Network = "small",
    dataset: options.Dataset = "digits",
    weights: options.Weights = None,
) -> None:
    """Print the filter groups of a network, and what each weighs."""
    from prune_gym.problem.make import make_problem

    with user_errors():
        given = None if weights is None else str(weights)
        names = ("params", "macs", "size_bytes", "activation_bytes", "energy_uj")
        budgets = dict.fromkeys(names, 1.0)
        problem = make_problem(network, dataset, weights=given, budgets=budgets)
        table = Table(
            "group", "filters", "layers", "params", "MACs", title=f"{network} on {dataset}"
        )
        for index, group in enumerate(problem.groups):
            without = problem.sizes.copy()
            without[index] = 1
            weight = 1.0 - problem.counted_costs(without)
            table.add_row(
                group.name,
                str(group.n_filters),
                ", ".join(group.producers),
                f"{weight[0]:.1%}",
                f"{weight[1]:.1%}",
            )
        console.print(table)
        params, macs, size, activations, energy = problem.unpruned_values
        console.print(f"{params:,.0f} parameters, {macs:,.0f} MACs, {size:,.0f} bytes.")
        console.print(
            f"One image: {activations:,.0f} bytes of feature maps at most, {energy:,.4g} uJ by the "
            "energy model."
        )
        console.print("A group's share is what cutting it alone to one filter saves.")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
) -> None:
    """Load the pruned network of a run and judge it anew: costs, validation, test."""
    from prune_gym.cli import prune as command

    with user_errors():
        command.evaluate(run, console)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, or what save_pruned wrote.")],
    formats: Annotated[
        list[str],
        typer.Option("--format", help="safetensors, pt2 or onnx; repeat for several."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder, or file of a single format; default: RUN.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="The unpruned network, where RUN does not name it.")
    ] = None,
) -> None:
    """Write the pruned network of a run as pt2 or ONNX; each file is checked against torch."""
    from prune_gym.cli.export import export_run

    with user_errors():
        for path, difference in export_run(run, formats, out, network):
            console.print(
                f"{escape(str(path))}: {path.stat().st_size:,} bytes, within {difference:.1e} of "
                "torch's logits"
            )


@app.command()
def pretrain(
    network: options.Trained,
    dataset: options.Dataset = "digits",
    epochs: options.Epochs = None,
    seed: options.TrainingSeed = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    out: options.WeightsOut = None,
    resume: options.ResumeTraining = False,
) -> None:
    """Train a network from scratch and save its weights where environments find them."""
    from prune_gym.cli.pretrain import PretrainConfig
    from prune_gym.cli.pretrain import pretrain as train

    with user_errors("stopped; where the training's state was saved, --resume goes on with it."):
        config = PretrainConfig(
            network, dataset, epochs, seed, batch_size, learning_rate, precision
        )
        train(config, out, device, resume, console)


def _settled(dataset: str) -> str:
    """The dataset with an absolute path, so that a run can go on from any folder."""
    scheme, separator, path = dataset.partition(":")
    return f"folder:{Path(path).resolve()}" if separator and scheme == "folder" else dataset


def _free_folder(name: str) -> Path:
    """``runs/NAME``, or ``runs/NAME-2`` and so on where that is taken."""
    folder = Path("runs") / name
    number = 2
    while folder.exists():
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
        if given and name not in ("resume", "timesteps", "finish"):
            raise InvalidValueError(
                f"--{name.replace('_', '-')} cannot go with --resume, which keeps the settings of "
                "the run; only --timesteps may change. Start a new run with --out."
            )


def _listings() -> dict[str, dict[str, str]]:
    from prune_gym import BUDGETS, CRITERIA, DATASETS, ENVIRONMENTS, NETWORKS, RECOVERIES
    from prune_gym.envs import GRANULARITIES
    from prune_gym.searches.algorithms import algorithms

    def summary(env_id: str) -> str:
        env = GRANULARITIES[ENVIRONMENTS[env_id]["granularity"]]
        return (env.__doc__ or "").splitlines()[0]

    return {
        "environments": {env_id: summary(env_id) for env_id in ENVIRONMENTS},
        "networks": NETWORKS.describe(),
        "datasets": DATASETS.describe(),
        "criteria": CRITERIA.describe(),
        "budgets": {
            name: f"{words} ({BUDGETS.get(name)().unit})"
            for name, words in BUDGETS.describe().items()
        }
        | {
            "module:function": "Yours: (network) -> number, or a prune_gym.Budget.",
            "command:PROGRAM {onnx}": "Yours: a program that is handed the network as a file.",
        },
        "recoveries": RECOVERIES.describe(),
        "algorithms": algorithms(),
    }
