"""``prune-gym list``: every name there is, with its description."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from prune_gym import BUDGETS, CRITERIA, DATASETS, ENVIRONMENTS, NETWORKS, RECOVERIES
from prune_gym.envs import GRANULARITIES
from prune_gym.envs.registration import TABLE_ENVIRONMENTS
from prune_gym.searches.algorithms import algorithms
from prune_gym.tasks.losses import LOSSES
from prune_gym.tasks.named_metrics import METRICS
from prune_gym.utils.registry import unknown_name


def print_listing(kind: str, console: Console) -> None:
    """Print the names of a kind, or of all.

    Args:
        kind: of `LISTED`; an empty text stands for all.
        console: where to print.

    Raises:
        UnknownNameError: no such kind.
    """
    if kind and kind not in LISTED:
        raise unknown_name("kind", kind, list(LISTED))
    for name in [kind] if kind else LISTED:
        table = Table(title=name, title_justify="left", box=None, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for row, words in LISTED[name]().items():
            table.add_row(f"  {row}", words)
        console.print(table)


def _environments() -> dict[str, str]:
    def summary(env_id: str) -> str:
        defaults = ENVIRONMENTS[env_id]
        words = (GRANULARITIES[defaults["granularity"]].__doc__ or "").splitlines()[0]
        if "network" in defaults:
            words += f" {defaults['network']} on {defaults['dataset']}."
        for name, limit in defaults.get("budgets", {}).items():
            words += f" Limit {name}={limit}."
        return f"{words} A limit per episode." if "limit_range" in defaults else words

    tables = dict.fromkeys(TABLE_ENVIRONMENTS, "Decide groups; networks are looked up in a table.")
    return {**{env_id: summary(env_id) for env_id in ENVIRONMENTS}, **tables}


def _budgets() -> dict[str, str]:
    described = BUDGETS.describe().items()
    return {name: f"{words} ({BUDGETS.get(name)().unit})" for name, words in described} | {
        "module:function": "Yours: (network) -> number, or a prune_gym.Budget.",
        "command:PROGRAM {onnx}": "Yours: a program that is handed the network as a file.",
    }


LISTED: dict[str, Callable[[], dict[str, str]]] = {
    "environments": _environments,
    "networks": NETWORKS.describe,
    "datasets": DATASETS.describe,
    "criteria": CRITERIA.describe,
    "budgets": _budgets,
    "recoveries": RECOVERIES.describe,
    "metrics": METRICS.describe,
    "losses": LOSSES.describe,
    "algorithms": algorithms,
}
