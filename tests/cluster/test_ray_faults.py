"""What breaks while a search runs on a cluster: nothing judged is lost, nothing counted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import tiny
from kills import KILLS, RAY_MARKS, killing
from torch import nn

from prune_gym import Budget, search
from prune_gym.cluster.workers import RayWorkers
from prune_gym.errors import ClusterError

pytestmark = RAY_MARKS


def noting_budget(folder, seconds) -> Budget:
    """A budget that takes a while, and notes the process that measures."""
    folder, owner = str(folder), os.getpid()

    def measure(network: nn.Module) -> float:
        if os.getpid() != owner:
            open(os.path.join(folder, str(os.getpid())), "w").close()
            time.sleep(seconds)
        return float(sum(p.numel() for p in network.parameters()))

    return Budget("noting", measure, deterministic=True)


def problem_of(folder, seconds=0.2, **arguments):
    return tiny.make_tiny(batch_size=40, budgets={noting_budget(folder, seconds): 0.9}, **arguments)


def alone(folder, evaluations):
    return search(problem_of(folder), "random", evaluations=evaluations).networks.tobytes()


def test_twenty_killed_workers_change_nothing(cluster, tmp_path):
    pids, killed, ended = tmp_path / "pids", [], threading.Event()
    pids.mkdir()
    thread = threading.Thread(target=killing, args=(pids, killed, ended))
    thread.start()

    def slower(progress):
        if progress.evaluations > 20 and len(killed) < KILLS:
            time.sleep(0.5)  # until all have been killed

    n = 120
    try:
        workers = RayWorkers(2, cpus_per_worker=0.5, retries=KILLS)
        result = search(
            problem_of(pids),
            "random",
            evaluations=n,
            workers=workers,
            out=tmp_path / "run",
            on_progress=slower,
        )
    finally:
        ended.set()
        thread.join()
    assert len(killed) == KILLS
    assert result.networks.tobytes() == alone(pids, n)
    assert len((tmp_path / "run" / "episodes.csv").read_text().splitlines()) == 1 + n


def test_a_machine_that_is_lost_changes_nothing(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()

    def lose(progress):
        if progress.evaluations == 6:
            cluster.remove_node(lost, allow_graceful=False)

    workers = RayWorkers(3, cpus_per_worker=1.0)
    result = search(
        problem_of(tmp_path), "random", evaluations=24, workers=workers, on_progress=lose
    )
    assert result.networks.tobytes() == alone(tmp_path, 24)


def test_a_lost_machine_that_measured_is_named(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, resources={"phone": 1}, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    workers = RayWorkers(1, cpus_per_worker=0.5, measure_on="phone", retries=1)

    def lose(progress):
        if progress.evaluations == 2:
            cluster.remove_node(node, allow_graceful=False)

    size = Budget("size", lambda network: float(sum(p.numel() for p in network.parameters())))
    with workers.session():
        problem = tiny.make_tiny(batch_size=40, budgets={size: 0.9})
        with pytest.raises(
            ClusterError, match=r"measure_on='phone': no machine|could not be measured"
        ):
            search(problem, "random", evaluations=30, workers=workers, on_progress=lose)


def test_ctrl_c_in_a_terminal_stops_and_leaves_the_cluster(cluster, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "prune_gym", "prune", "--workers", "2", "--algo", "random"]
    command += ["--evaluations", "5000", "--finetune-steps", "0", "--out", str(run)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 240
        while rows(run) < 10 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    judged = rows(run)
    assert 10 <= judged < 5000
    with RayWorkers(1).session():
        assert idle_again()
    more = ["--resume", str(run), "--evaluations", str(judged + 8), "--workers", "1"]
    command = [*command[:4], *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(run) == judged + 8


def rows(run) -> int:
    try:
        return len((run / "episodes.csv").read_text().splitlines()) - 1
    except OSError:
        return 0


def idle_again() -> bool:
    """Whether nothing of ours holds anything of the cluster any more."""
    import ray

    for _ in range(50):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return True
        time.sleep(0.2)
    return False
