"""A cluster of three nodes on this machine, until Ctrl-C: ``python benchmarks/small_cluster.py``.

A head without cores, a node that judges, and one with the resource ``stopwatch`` that measures.
Then, in another terminal: ``prune-gym prune --workers 2 --ray-address ADDRESS --measure-on
stopwatch --budget latency_ms=0.5``.
"""

from __future__ import annotations

import argparse
import os
import signal
import time

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")

from ray.cluster_utils import Cluster


def main() -> None:
    """Start it, say where it is, wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus", type=int, default=2, help="cores of each node")
    cpus = parser.parse_args().cpus
    for number in (signal.SIGINT, signal.SIGTERM):  # a script's "&" lets Ctrl-C be ignored
        signal.signal(number, signal.default_int_handler)
    store = 200 * 2**20  # bytes
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store}
    )
    try:
        for resource in ("judge", "stopwatch"):
            cluster.add_node(
                num_cpus=cpus, resources={resource: float(cpus)}, object_store_memory=store
            )
        print(f"three nodes at {cluster.address}; export RAY_ADDRESS={cluster.address}", flush=True)
        while True:
            time.sleep(1.0)
    except KeyboardInterrupt:
        print("stopping")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
