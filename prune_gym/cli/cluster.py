"""The options of a Ray cluster, as `RayWorkers`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console

from prune_gym.cli.console import say_words
from prune_gym.errors import InvalidValueError

if TYPE_CHECKING:
    from prune_gym.cluster.workers import RayWorkers

OPTIONS = ("workers", "ray_address", "gpus_per_worker", "measure_on", "evaluation_timeout")
TIMEOUT_S = 3600.0


def cluster_of(given: Mapping[str, Any], console: Console) -> RayWorkers | None:
    """Workers as the options say; None = none are asked for.

    Args:
        given: options by parameter.
        console: where it is told that workers have to wait.

    Raises:
        ValueError: an option that goes with ``--workers`` only.
    """
    if given["workers"] is None:
        usual = {"gpus_per_worker": 0.0, "evaluation_timeout": TIMEOUT_S}
        for name in OPTIONS:
            if given.get(name, usual.get(name)) != usual.get(name):
                raise InvalidValueError(
                    f"--{name.replace('_', '-')} goes with --workers N, processes of a Ray cluster."
                )
        return None
    from prune_gym.cluster.workers import RayWorkers

    return RayWorkers(
        given["workers"],
        address=given["ray_address"],
        gpus_per_worker=given.get("gpus_per_worker", 0.0),
        measure_on=given["measure_on"],
        timeout_s=given.get("evaluation_timeout", TIMEOUT_S),
        report=lambda words: say_words(words, console),
    )


def in_cluster(cluster: RayWorkers | None) -> AbstractContextManager[Any]:
    """Be connected, with what measures budgets, while a problem is made and searched."""
    return nullcontext() if cluster is None else cluster.session()
