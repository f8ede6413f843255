"""``prune-gym inspect``: the filter groups of a network, its floors, or what a run holds."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.console import say
from prune_gym.budgets import amount
from prune_gym.cli.scores import metric_of
from prune_gym.cli.sensitivity import say_sensitivity, scan_of_run
from prune_gym.datasets import load_dataset
from prune_gym.errors import CheckpointError, InvalidValueError, RunFolderError
from prune_gym.networks import NETWORKS
from prune_gym.networks.build import build_for
from prune_gym.problem.make import make_problem
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.saving import PLAN, load_pruned, read_plan
from prune_gym.problem.trust import trust_option
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.run_folder import RunFolder
from prune_gym.utils.words import score_in_words

COUNTED = ("params", "macs", "size_bytes", "activation_bytes", "energy_uj")
LIMITS = (0.5, 0.25, 0.1)  # for which it is said how much of each group has to go
_STEPS = 20  # of even prune ratios that are tried


def inspect(
    what: str,
    dataset: str | None,
    weights: Path | None,
    console: Console,
    *,
    depth: bool = False,
    sensitivity: bool = False,
) -> None:
    """Print what is known of a network or of a run.

    Args:
        what: a registered network, ``module:function``, or a run folder (one that is named as a
            network is ``./NAME``).
        dataset: of a network; None = digits.
        weights: of a network; None = those that are found by its name.
        console: where to print.
        depth: whether residual blocks of a network can go whole.
        sensitivity: whether the sensitivity scan is shown: judged now, or what a run began with.

    Raises:
        ValueError: options of a network beside a run folder; what `make_problem` raises.
        RunFolderError, CheckpointError: the folder is damaged, or holds no run.
    """
    if what in NETWORKS or not os.path.isdir(what):
        given = None if weights is None else str(weights)
        problem = _say_network(what, dataset or "digits", given, console, depth)
        if sensitivity:
            console.print()
            say_sensitivity(problem.sensitivity, console)
        return
    if depth:
        raise InvalidValueError(
            f"--depth cannot go with the run folder {what!r}, which knows its own; leave it out."
        )
    for option, value in (("--dataset", dataset), ("--weights", weights)):
        if value is not None:
            raise InvalidValueError(
                f"{option} {str(value)!r} cannot go with the run folder {what!r}, which knows its "
                "own; leave it out."
            )
    _say_run(Path(what), console)
    if sensitivity:
        say_sensitivity(scan_of_run(Path(what)), console)


# -- a network -------------------------------------------------------------------------------------


def _say_network(
    network: str, dataset: str, weights: str | None, console: Console, depth: bool
) -> PruningProblem:
    problem = _problem(network, dataset, weights, console, depth)
    console.print(_groups(problem, f"{network} on {dataset}"))
    params, macs, size, activations, energy = problem.unpruned_values
    console.print(f"{params:,.0f} parameters, {macs:,.0f} MACs, {size:,.0f} bytes.")
    console.print(
        f"One image: {activations:,.0f} bytes of feature maps at most, {energy:,.4g} uJ by the "
        "energy model."
    )
    fewest = "one filter (to none, where it is in a block)" if depth else "one filter"
    console.print(f"A group's share is what cutting it alone to {fewest} saves.\n")
    console.print(_floors(problem))
    smallest = "one filter a group" + (" outside of the blocks, which are gone" if depth else "")
    console.print(
        f"The floor is the smallest network, {smallest}: no limit can be below it.\n"
        "The last columns: what every group has to lose for a limit, if all lose alike."
    )
    return problem


def _problem(
    network: str, dataset: str, weights: str | None, console: Console, depth: bool
) -> PruningProblem:
    """The problem of a network; one without trained weights is taken as it is built."""
    budgets = dict.fromkeys(COUNTED, 1.0)
    try:
        return make_problem(network, dataset, weights=weights, budgets=budgets, depth=depth)
    except CheckpointError as error:
        if weights is not None:
            raise
        say(f"not trained: {error}", console)
        data = load_dataset(dataset)
        return make_problem(build_for(network, data), data, budgets=budgets, depth=depth)


def _groups(problem: PruningProblem, title: str) -> Table:
    table = Table("group", title=escape(title), title_justify="left", box=None)
    for name in ("filters", "params", "MACs"):
        table.add_column(name, justify="right")
    has_blocks = any(group.block for group in problem.groups)
    if has_blocks:
        table.add_column("block")
    table.add_column("layers cut together")
    for index, group in enumerate(problem.groups):
        without = problem.sizes.copy()
        without[index] = 0 if group.block else 1
        share = 1.0 - problem.counted_costs(without)
        together = ", ".join(group.producers) if len(group.producers) > 1 else ""
        shares = (f"{share[0]:.1%}", f"{share[1]:.1%}")
        block = [escape(group.block.name if group.block else "")] if has_blocks else []
        table.add_row(escape(group.name), str(group.n_filters), *shares, *block, escape(together))
    return table


def _floors(problem: PruningProblem) -> Table:
    """Unpruned value and floor by budget, and the even prune ratio that each limit takes."""
    table = Table(box=None)
    table.add_column("budget", no_wrap=True)
    for name in ("unpruned", "floor", "as limit", *(f"{limit:g}" for limit in LIMITS)):
        table.add_column(name, justify="right", no_wrap=True)
    ratios = np.linspace(0.0, 1.0, _STEPS + 1)
    counts = [problem.kept_counts(np.full(len(problem.groups), ratio)) for ratio in ratios]
    costs = np.array([problem.costs(problem.masks_of(row)) for row in counts])
    for index, budget in enumerate(problem.budgets):
        value, floor = float(problem.unpruned_values[index]), float(costs[-1, index])
        needed = []
        for limit in LIMITS:
            within = np.flatnonzero(costs[:, index] <= limit)
            needed.append(f"{ratios[within[0]]:.0%}" if len(within) else "never")
        words = (amount(value, ""), amount(value * floor, ""), f"{floor:.3g}")
        table.add_row(budget.name, *words, *needed)
    return table


# -- a run -----------------------------------------------------------------------------------------


def _say_run(path: Path, console: Console) -> None:
    """What a folder says of itself; no code that it names is run."""
    option = None  # of commands on the run; a folder of a network alone is none
    if (path / "config.json").is_file():
        folder, config = RunFolder.open(path)
        option = trust_option(config.problem)
        table = Table(title=escape(str(path)), title_justify="left", box=None, show_header=False)
        for name, value in _facts(folder, config):
            table.add_row(name, escape(value))
        console.print(table)
    if not (path / PLAN).is_file():
        if not (path / "config.json").is_file():
            raise RunFolderError(
                f"{path} is neither a network's name nor a run folder: it holds no config.json."
            )
        console.print("No network is within the limits yet.")
        return
    plan = read_plan(path)
    if plan["network"] in NETWORKS:
        load_pruned(path)  # the tensors must be what the plan says
    what = "filters" if plan["structure"] == "filter" else "weights"
    table = Table("group", title=f"what {what} are left", title_justify="left", box=None)
    for name in ("unpruned", "kept", "share"):
        table.add_column(name, justify="right")
    for row in plan["groups"]:
        kept = row["kept"] if isinstance(row["kept"], int) else len(row["kept"])
        share = kept / max(1, row["filters"])
        table.add_row(escape(row["name"]), f"{row['filters']:,}", f"{kept:,}", f"{share:.0%}")
    console.print(table)
    if plan.get("gone"):
        say(f"residual blocks went whole; gone are {', '.join(plan['gone'])}", console)
    where = shlex.quote(str(path))
    if option is not None:
        say(f"judge it: prune-gym evaluate {where}{option}", console)
    option = trust_option({"network": plan["network"]})
    say(f"write it: prune-gym export {where}{option}", console)


def _facts(folder: RunFolder, config: SearchConfig) -> list[tuple[str, str]]:
    """Rows of settings and results."""
    problem, metrics = config.problem, folder.read_json("metrics.json")
    searches = folder.searches(config)
    rows = [row for search in searches for row in search.read_episodes()]
    limits: dict[str, Any] = config.limits or metrics.get("limits", {})
    network, data = (problem.get(name, "an object") for name in ("network", "dataset"))
    run = folder.run_of_round
    if run is not None:
        network, problem = "what was left by then", run[1].problem
        data = problem.get("dataset", "an object")
    facts = [
        ("network", f"{network} on {data}"),
        ("criterion", str(problem.get("criterion", "unknown"))),
        ("recovery", str(problem.get("recovery", "unknown"))),
        ("algorithm", f"{config.algo}, seed {config.seed}, {config.timesteps:,} timesteps"),
        ("limits", ", ".join(f"{name}={limit:g}" for name, limit in limits.items()) or "unknown"),
    ]
    if "picked_from" in metrics:
        facts.append(("picked from", f"{metrics['picked_from']}, no search of its own"))
    else:
        feasible = sum(row["feasible"] == "1" for row in rows)
        words = "within every limit" if config.rounds == 1 else "within the limits of their round"
        facts.append(("evaluated", f"{len(rows):,} networks, {feasible:,} {words}"))
    if config.rounds > 1:
        over = sum(bool(search.read_json("metrics.json")) for search in searches)
        facts.append(("rounds", f"{over} of {config.rounds} done"))
    if not metrics:
        facts.append(("finished", f"no; go on: {folder.resume_command}"))
        return facts
    scores = metrics["accuracy"]
    for split in ("validation", "test"):
        if scores.get(f"finetuned_{split}") is not None:
            both = scores[f"dense_{split}"], scores[f"finetuned_{split}"]
            before, after = (score_in_words(score) for score in both)
            name = metric_of(metrics)
            kind = "" if name == "accuracy" else f"{name} "
            facts.append((split, f"{kind}{after} (unpruned network {before})"))
    dense, pruned = metrics["dense"], metrics["pruned"]
    facts += [
        (label, f"{pruned[key]:,.0f} of {dense[key]:,.0f}")
        for key, label in (("params", "parameters"), ("macs", "MACs"), ("size_bytes", "bytes"))
    ]
    return facts
