"""Where a machine has too little: a full object store, no memory left, a GPU that torch lacks.

Each runs in a process of its own, as Ray of another size has to be started for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
pytest.importorskip("ray")

HEAD = """
import os, time

import numpy as np
import ray
import tiny
import torch
from prune_gym import Budget, RayWorkers, search
from prune_gym.errors import ClusterError, WorkerError

OWNER = os.getpid()
ONE = RayWorkers(1, cpus_per_worker=0.5, retries=1)


def size(network):
    return float(sum(p.numel() for p in network.parameters()))


def said(error, run):
    try:
        run()
    except error as found:
        print("said:", found)
"""


def printed(script: str, folder: Path, **environ: str) -> str:
    """What a script prints; raises where it fails."""
    file = folder / "script.py"
    file.write_text(HEAD + script)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=folder,
        env={
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def memory_of_machine() -> tuple[int, int]:
    """Bytes in all, and of them free."""
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(rows[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return 1024 * total, 1024 * available


def test_a_full_object_store_is_named_and_nothing_is_lost(tmp_path):
    script = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    n_bytes: int
    seconds: float = 0.0
    masks: tuple = ()

    def answered(self, problem):
        return Found(np.zeros(self.n_bytes, np.uint8))


@dataclass(frozen=True)
class Found:
    content: object
    seconds: float = 0.0


full = {"local_fs_capacity_threshold": 0.0}  # the disk does not help
ray.init(num_cpus=1, object_store_memory=80 * 2**20, _system_config=full, include_dashboard=False)
images = torch.zeros(40_000, 1, 32, 32), torch.arange(40_000) % 3
big = tiny.prune_gym.make_problem(
    tiny.build("vgg"), train=images, validation=images, budgets={"params": 0.5}
)
said(ClusterError, lambda: search(big, "random", evaluations=2, workers=ONE, out="big"))
problem = tiny.make_tiny(batch_size=40)
said(ClusterError, lambda: ONE.answers(problem, [Answer(150 * 2**20)], print))
print("rows:", len(search(problem, "random", evaluations=3, workers=ONE, out="run")))
"""
    found = printed(script, tmp_path)
    assert "said: the object store of the cluster is full: the problem takes" in found
    assert found.count("Start Ray with more (ray start --object-store-memory BYTES)") == 2
    assert "rows: 3" in found


def test_a_worker_out_of_memory_is_replaced_and_then_named(tmp_path):
    script = """
def hungry(always):
    def measure(network):
        if os.getpid() != OWNER and (always or not os.path.exists("eaten")):
            open("eaten", "w").close()
            eaten = [np.ones(64 * 2**20, np.uint8) for _ in range(64)]
            time.sleep(60)
        return size(network)
    return Budget("hungry", measure, deterministic=True)


def found(budget, workers):
    problem = tiny.make_tiny(batch_size=40, budgets={budget: 0.9})
    return search(problem, "random", evaluations=3, workers=workers).networks.tobytes()


ray.init(num_cpus=1, include_dashboard=False)
print("same:", found(hungry(False), ONE) == found(Budget("hungry", size, deterministic=True), None))
print("eaten:", os.path.exists("eaten"))
said(WorkerError, lambda: found(hungry(True), ONE))
"""
    total, available = memory_of_machine()
    if available < 6 * 2**30:
        pytest.skip("it takes 4 GB of memory")
    most = 1.0 - (available - 2 * 2**30) / total
    words = printed(
        script,
        tmp_path,
        RAY_memory_usage_threshold=f"{most:.3f}",
        RAY_memory_monitor_refresh_ms="100",
    )
    assert "same: True" in words
    assert "eaten: True" in words
    assert "said: the network that keeps" in words
    assert "memory" in words.partition("said:")[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_torch_does_not_find_are_named(tmp_path):
    script = """
ray.init(num_cpus=1, num_gpus=1, include_dashboard=False)
workers = RayWorkers(1, cpus_per_worker=0.5, gpus_per_worker=0.5)
said(ClusterError, lambda: search(tiny.make_tiny(batch_size=40), "random", workers=workers))
"""
    found = printed(script, tmp_path)
    assert "said: gpus_per_worker: Ray lends GPUs of machine" in found
    assert "or leave gpus_per_worker out" in found
