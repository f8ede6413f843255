"""A cluster of several nodes on this machine, started once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One search on a cluster runs always; what takes longer here, with ``--all``."""
    if config.getoption("--all", default=False):
        return
    here = str(Path(__file__).parent)
    left_out = [
        item
        for item in items
        if str(item.path).startswith(here) and item.get_closest_marker("slow") is not None
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def started(cluster_class: Any) -> Any:
    """Three nodes; tried three times, as Ray gives a node's processes 15 s, busy machine or not."""
    small = {"object_store_memory": 150 * 2**20}
    for trial in range(3):
        made = None
        try:
            made = cluster_class(initialize_head=True, head_node_args={"num_cpus": 0, **small})
            for resources in ({"judge": 2}, {"stopwatch": 1}):
                made.add_node(num_cpus=2, resources=resources, **small)
        except Exception:  # whatever Ray raises
            if made is not None:
                made.shutdown()
            if trial == 2:
                raise
        else:
            return made
    return None


@pytest.fixture(scope="session")
def cluster() -> Iterator[object]:
    """A head without cores, a node that judges and one that measures; its address is set."""
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # machines may be busy
    from ray.cluster_utils import Cluster

    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)  # of the nodes
    made = started(Cluster)
    try:
        os.environ["RAY_ADDRESS"] = made.address
        yield made
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        if path is None:
            os.environ.pop("PYTHONPATH")
        else:
            os.environ["PYTHONPATH"] = path
        made.shutdown()
