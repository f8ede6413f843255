"""The command ``prune-gym``: search, inspect, evaluate, pretrain. Heavy imports wait for use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="Prune a trained network under a budget, by constrained reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)

BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME=LIMIT",
        help="Limit as a fraction of the unpruned network's "
        "budget, e.g. params=0.1; repeat for several. NAME may be module:function.",
    ),
]
NetworkOption = Annotated[str, typer.Option(help="A registered network, or module:function.")]
DatasetOption = Annotated[str, typer.Option(help="A registered dataset, or module:function.")]
WeightsOption = Annotated[
    Path | None, typer.Option(help="Trained weights (safetensors) of the network.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or auto.")]


def main() -> None:
    """Entry point of the command."""
    sys.path.insert(0, "")  # "module:function" finds modules in the working directory
    app()


@app.command()
def prune(
    context: typer.Context,
    env: Annotated[str, typer.Option(help="Environment id.")] = "PruneVGG-v0",
    network: NetworkOption = "small",
    dataset: DatasetOption = "digits",
    weights: WeightsOption = None,
    budget: BudgetOption = None,
    algo: Annotated[str, typer.Option(help="See `prune-gym list algorithms`.")] = "ppo_lag",
    timesteps: Annotated[
        int | None, typer.Option(min=1, help="Environment steps; default 12000.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/ALGO-SEED, numbered.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="With --resume: search no longer, finish.")
    ] = False,
    criterion: Annotated[str, typer.Option(help="Which filters go first.")] = "l1",
    recovery: Annotated[str, typer.Option(help="none, bn or finetune.")] = "bn",
    structure: Annotated[str, typer.Option(help="filter or weight.")] = "filter",
    evaluation_samples: Annotated[int | None, typer.Option(min=1)] = None,
    finetune_steps: Annotated[int, typer.Option(min=0, help="After the search.")] = 300,
    device: DeviceOption = "cpu",
) -> None:
    """Search for the best network within the budget, fine-tune it, test it, report it."""
    from prune_gym.search import sitting
    from prune_gym.search.folder import SearchConfig

    with user_errors():
        if resume is not None:
            _refuse_beside_resume(context)
            sitting.resume(resume, timesteps, finish, console)
            return
        if finish:
            raise ValueError("--finish goes with --resume RUN only.")
        problem = {
            "network": network,
            "dataset": dataset,
            "budgets": parse_budgets(budget or ["params=0.1"]),
            "criterion": criterion,
            "recovery": recovery,
            "structure": structure,
            "evaluation_samples": evaluation_samples,
            "device": device,
            "weights": None if weights is None else str(weights),
        }
        config = SearchConfig(env, algo, timesteps or 12_000, seed, finetune_steps, problem)
        sitting.start(config, out or _free_folder(f"{algo}-{seed}"), console)


@app.command(name="list")
def list_rows(
    kind: Annotated[str, typer.Argument(help="One kind only, e.g. budgets.")] = "",
) -> None:
    """List environments, networks, datasets, criteria, budgets, recoveries and algorithms."""
    with user_errors():
        tables = _listings()
        if kind and kind not in tables:
            from prune_gym.registry import unknown_name

            raise unknown_name("kind", kind, list(tables))
        for name in [kind] if kind else tables:
            table = Table(title=name, title_justify="left", box=None, show_header=False)
            for row, words in tables[name].items():
                table.add_row(f"  {row}", words)
            console.print(table)


@app.command()
def inspect(
    network: NetworkOption = "small",
    dataset: DatasetOption = "digits",
    weights: WeightsOption = None,
) -> None:
    """Print the filter groups of a network, and what each weighs."""
    from prune_gym.make import make_problem

    with user_errors():
        given = None if weights is None else str(weights)
        budgets = {"params": 1.0, "macs": 1.0, "size_bytes": 1.0}
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
        params, macs, size = problem.dense_values
        console.print(f"{params:,.0f} parameters, {macs:,.0f} MACs, {size:,.0f} bytes.")
        console.print("A group's share is what cutting it alone to one filter saves.")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
) -> None:
    """Load the pruned network of a run and judge it anew: costs, validation, test."""
    from prune_gym.search import sitting

    with user_errors():
        sitting.evaluate(run, console)


@app.command()
def pretrain(
    network: Annotated[str, typer.Argument(help="A registered network, or module:function.")],
    dataset: DatasetOption = "digits",
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="File; default: the cache.")] = None,
) -> None:
    """Train a network from scratch and save its weights where environments find them."""
    from prune_gym.search import sitting

    with user_errors():
        sitting.pretrain(network, dataset, epochs, seed, out, console)


def _free_folder(name: str) -> Path:
    """``runs/NAME``, or ``runs/NAME-2`` and so on where that is taken."""
    folder = Path("runs") / name
    number = 2
    while folder.exists():
        folder = Path("runs") / f"{name}-{number}"
        number += 1
    return folder


def parse_budgets(options: list[str]) -> dict[str, float]:
    """``["params=0.1"]`` -> ``{"params": 0.1}``.

    Raises:
        ValueError: not of the form NAME=LIMIT, or a name given twice.
    """
    limits: dict[str, float] = {}
    for option in options:
        name, separator, limit = option.rpartition("=")
        try:
            number = float(limit)
        except ValueError:
            number = float("nan")
        if not separator or not name or number != number:
            raise ValueError(f"--budget {option!r}: expected NAME=LIMIT, e.g. params=0.1.")
        if name in limits:
            raise ValueError(f"--budget {name!r} is given twice; give one limit for it.")
        limits[name] = number
    return limits


def _refuse_beside_resume(context: typer.Context) -> None:
    """A resumed run keeps its settings; options that would be ignored are refused."""
    for name in context.params:
        source = context.get_parameter_source(name)
        given = source is not None and source.name == "COMMANDLINE"
        if given and name not in ("resume", "timesteps", "finish"):
            raise ValueError(
                f"--{name.replace('_', '-')} cannot go with --resume, which keeps the settings of "
                "the run; only --timesteps may change. Start a new run with --out."
            )


class user_errors:
    """Turn errors that a user can mend into one line on standard error and exit status 2."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        """Report what the user can mend; let bugs through with their traceback."""
        if isinstance(error, KeyboardInterrupt):
            fail("stopped; a run that was begun goes on with prune-gym prune --resume RUN.", 130)
        from prune_gym.search.archive import NothingFeasibleError

        if isinstance(error, NothingFeasibleError):
            fail(str(error), code=1)
        if isinstance(error, ValueError | TypeError | OSError) or _is_gym_error(error):
            fail(str(error), code=2)


def fail(message: str, code: int) -> NoReturn:
    """Print an error and exit."""
    errors.print(f"[bold red]error[/]: {_escape(message)}", highlight=False)
    raise SystemExit(code)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _is_gym_error(error: Any) -> bool:
    gymnasium = sys.modules.get("gymnasium")
    return gymnasium is not None and isinstance(error, gymnasium.error.Error)


def _listings() -> dict[str, dict[str, str]]:
    from prune_gym import BUDGETS, CRITERIA, DATASETS, ENVIRONMENTS, NETWORKS, RECOVERIES
    from prune_gym.envs.coarse import GRANULARITIES
    from prune_gym.search.drive import algorithms

    def summary(env_id: str) -> str:
        env = GRANULARITIES[ENVIRONMENTS[env_id]["granularity"]]
        return (env.__doc__ or "").splitlines()[0]

    return {
        "environments": {env_id: summary(env_id) for env_id in ENVIRONMENTS},
        "networks": NETWORKS.describe(),
        "datasets": DATASETS.describe(),
        "criteria": CRITERIA.describe(),
        "budgets": BUDGETS.describe(),
        "recoveries": RECOVERIES.describe(),
        "algorithms": algorithms(),
    }
