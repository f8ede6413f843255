"""What workers of a Ray cluster cost, and what they bring.

    python benchmarks/ray_workers.py                     # all parts, on a local cluster
    python benchmarks/ray_workers.py overhead growth
    python benchmarks/ray_workers.py threads --network vgg11 --weights FILE --images FOLDER

Parts: ``start`` (seconds until the first network is judged), ``overhead`` (a network of 20 ms by a
worker against a plain call), ``threads`` (two workers against two threads), ``memory`` (of a
further worker), ``kills`` (a random worker is killed twenty times during a search), ``growth``
(networks that sleep half a second, 1 to 64 workers: networks a second against the ideal). On a busy
machine only ratios of one run mean something.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from prune_gym import Budget, PruningProblem, RayWorkers, make_problem, search
from prune_gym.cluster.workers import workers_of

LIGHT = 0.01  # cores that a worker asks for, so that many fit on any machine


def sleeping(seconds: float) -> Budget:
    """A budget that takes so long, and no core."""

    def measure(network: nn.Module) -> float:
        time.sleep(seconds)
        return float(sum(parameter.numel() for parameter in network.parameters()))

    return Budget("sleeping", measure, deterministic=True)


def decisions(problem: PruningProblem, n: int) -> list[Any]:
    """Keep masks of random networks, no two of them equal."""
    generator = np.random.default_rng(0)
    ratios = generator.uniform(0.2, 0.9, (n, len(problem.groups)))
    return [problem.masks_of(problem.kept_counts(row)) for row in ratios]


def timed(run: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def seconds(problem: PruningProblem, cluster: RayWorkers | None, n: int) -> float:
    """Seconds to judge ``n`` networks, workers being up."""
    masks = decisions(problem, n + 64)
    with workers_of(problem, cluster) as threads:
        count = 2 if cluster is None else cluster.count
        list(threads.map(problem.evaluate, masks[n : n + 2 * count]))  # all are up
        return timed(lambda: list(threads.map(problem.evaluate, masks[:n])))


def start(given: argparse.Namespace) -> None:
    """Seconds until the first network is judged."""
    problem = make_problem()
    masks = decisions(problem, 1)[0]

    def first() -> None:
        with RayWorkers(1, cpus_per_worker=LIGHT).judging(problem):
            problem.evaluate(masks)

    print(f"start: first network after {timed(first):.1f} s, cluster included")


def overhead(given: argparse.Namespace) -> None:
    """A network of 20 ms by one worker against a plain call, in turns."""
    problem = make_problem(budgets={sleeping(0.02): 0.9}, evaluation_samples=20)
    ratios = []
    for turn in range(3):
        masks = decisions(problem, 300)[100 * turn : 100 * (turn + 1)]
        here = timed(lambda masks=masks: [problem.evaluator.judge(m, 0, 0) for m in masks])
        with RayWorkers(1, cpus_per_worker=LIGHT).judging(problem) as threads:
            problem.evaluate(decisions(problem, 301)[-1])
            there = timed(lambda m=masks, t=threads: list(t.map(problem.evaluate, m)))
        ratios.append(there / here)
        print(
            f"overhead: {10 * here:.1f} ms here, {10 * there:.1f} ms by a worker: {ratios[-1]:.3f}"
        )
    print(f"overhead: median ratio {np.median(ratios):.3f}")


def threads(given: argparse.Namespace) -> None:
    """Two workers against two threads of this process, in turns."""
    dataset = given.dataset if given.images is None else f"folder:{given.images}"
    problem = make_problem(
        given.network, dataset, weights=given.weights, evaluation_samples=given.samples
    )
    ratios = []
    for _ in range(given.turns):
        problem.evaluator.memory.__init__()  # type: ignore[misc]  # nothing is remembered
        here = seconds(problem, None, given.n)
        problem.evaluator.memory.__init__()  # type: ignore[misc]
        there = seconds(problem, RayWorkers(2), given.n)
        ratios.append(there / here)
        print(f"threads: {here:.1f} s by 2 threads, {there:.1f} s by 2 workers: {ratios[-1]:.3f}")
    print(f"threads: median ratio {np.median(ratios):.3f} on {given.network}")


def private_mb(pid: int) -> float:
    """Memory that only this process holds."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        rows = [line.split() for line in file if line.startswith("Private_")]
    return sum(int(row[1]) for row in rows) / 1024.0


def workers_now() -> list[int]:
    """Processes of workers."""
    found = subprocess.run(["pgrep", "-f", "ray::Worker"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def memory(given: argparse.Namespace) -> None:
    """Memory of a worker with its problem, beyond that of a process with the libraries."""
    code = (
        "import torch, prune_gym.problem.make, time; torch.ones(9) @ torch.ones(9); time.sleep(90)"
    )
    plain = subprocess.Popen(["python", "-c", code])
    problem = make_problem(given.network, given.dataset, weights=given.weights)
    with RayWorkers(2, cpus_per_worker=LIGHT).judging(problem) as pool:
        list(pool.map(problem.evaluate, decisions(problem, 8)))
        found = [private_mb(pid) for pid in workers_now()]
        bare = private_mb(plain.pid)
    plain.kill()
    words = ", ".join(f"{mb:.0f}" for mb in found)
    print(f"memory: workers {words} MB of their own; interpreter and libraries {bare:.0f} MB")


@contextmanager
def killer(every_s: float, most: int, killed: list[int]) -> Any:
    """Kill a random worker now and then."""
    ended = threading.Event()

    def kill() -> None:
        while len(killed) < most and not ended.wait(every_s):
            pids = workers_now()
            if pids:
                killed.append(random.Random(len(killed)).choice(pids))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def kills(given: argparse.Namespace) -> None:
    """The same search alone, and with workers of which twenty are killed."""
    budgets = {sleeping(0.5): 0.9}
    alone = search(make_problem(budgets=budgets), "random", evaluations=given.n)
    killed: list[int] = []
    workers = RayWorkers(2, cpus_per_worker=LIGHT, retries=20)
    with killer(given.every, given.kills, killed):
        result = search(
            make_problem(budgets=budgets), "random", evaluations=given.n, workers=workers
        )
    same = bool(np.array_equal(result.networks, alone.networks))
    print(f"kills: {len(killed)} workers killed, {len(result)} networks, the same: {same}")


def growth(given: argparse.Namespace) -> None:
    """Networks a second against the ideal, with networks that sleep half a second."""
    problem = make_problem(budgets={sleeping(0.5): 0.9}, evaluation_samples=20)
    for n in given.workers:
        cluster = RayWorkers(n, cpus_per_worker=LIGHT)
        found = 8 * n / seconds(problem, cluster, 8 * n)
        share = found * 0.5 / n
        print(f"growth: {n} workers, {found:.1f} networks a second, {share:.2f} of the ideal")


PARTS = {part.__name__: part for part in (start, overhead, threads, memory, kills, growth)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[*PARTS], help=", ".join(PARTS))
    parser.add_argument("--network", default="small")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--images", default=None, help="a folder of images")
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--n", type=int, default=40, help="networks")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between kills")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    given = parser.parse_args(arguments)
    with RayWorkers(2).session():
        for name in given.parts:
            PARTS[name](given)


if __name__ == "__main__":
    main()
