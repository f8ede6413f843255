"""What workers of a Ray cluster cost, and what they bring.

    python benchmarks/ray_workers.py                     # all parts, on a local cluster
    python benchmarks/ray_workers.py overhead growth

Parts: ``start`` (seconds until the first network is judged), ``overhead`` (a network of 20 ms by a
worker against a plain call), ``threads`` (two workers against two threads, on VGG11 with random
weights and images), ``memory`` (of a further worker), ``kills`` (a random worker is killed twenty
times during a search), ``growth`` (networks that sleep half a second, 1 to 64 workers that hold no
problem: networks a second against the ideal, and the time of this process's that each takes). All
take some five minutes on two cores, ``growth`` half of them: 64 processes start. On a busy machine
only ratios of one run mean something. Each part is written into the file when it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from naps import NAP_S, Nap
from origin import origin
from torch import nn

from agents.files import write_json
from prune_gym import Budget, Metric, PruningProblem, RayWorkers, make_problem, search
from prune_gym.cluster.hiring import Hiring
from prune_gym.cluster.pool import Pool
from prune_gym.cluster.shipping import Judged, Question
from prune_gym.cluster.workers import AT_ONCE, MOST_THREADS, RemoteEvaluator, workers_of
from prune_gym.networks.build import build_network
from prune_gym.utils.threads import Workers, one_thread

RESULTS = Path(__file__).parent / "results" / "ray_workers.json"
NETWORK_S = 0.02
LIGHT = 0.01  # cores that a worker asks for, so that many fit on any machine
ROUNDS = 10  # networks that each worker naps over
Figures = dict[str, Any]


def say(words: str) -> None:
    """Tell on the standard error what is done."""
    print(words, file=sys.stderr, flush=True)


def sleeping(seconds: float, noted: str | None = None) -> Budget:
    """A budget that takes so long, and no core; it notes the processes that it is called in."""
    owner = os.getpid()

    def measure(network: nn.Module) -> float:
        if noted is not None and os.getpid() != owner:
            open(os.path.join(noted, str(os.getpid())), "w").close()
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


def judged(pool: Any, evaluator: Any, masks: Sequence[Any]) -> None:
    """Judge networks in the threads of a pool, whatever is remembered of them."""
    list(pool.map(lambda one: evaluator.judge(one, 0, 0).accuracy, masks))


def start(given: argparse.Namespace) -> Figures:
    """Seconds until the first network is judged, the cluster being there."""
    problem = make_problem()
    masks = decisions(problem, 1)[0]

    def first() -> None:
        with RayWorkers(1, cpus_per_worker=LIGHT).judging(problem):
            problem.evaluate(masks)

    return {"cluster_s": given.cluster_s, "worker_s": timed(first)}


def resting_problem(seconds: float) -> PruningProblem:
    """Networks that are judged on hardly any image, by a metric that takes so long, and no core."""

    def measure(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        time.sleep(seconds)
        return float((outputs.argmax(1) == targets).float().mean())

    metric = Metric(measure, highest=1.0, lowest=0.0)
    return make_problem(evaluation_samples=20, recovery="none", metric=metric)


def overhead(given: argparse.Namespace) -> Figures:
    """A network of 20 ms by one worker against a plain call, in turns."""
    n, rows = 200, []
    problem = resting_problem(0.0)
    masks = decisions(problem, n + 1)
    with one_thread():  # as many as a worker has
        own_s = timed(lambda: [problem.evaluator.judge(one, 0, 0) for one in masks]) / len(masks)
    problem = resting_problem(max(0.0, NETWORK_S - own_s))
    for turn in range(given.turns):
        say(f"overhead: turn {turn + 1} of {given.turns}")
        with one_thread():
            here = timed(lambda: [problem.evaluator.judge(one, 0, 0) for one in masks[:n]])
        with RayWorkers(1, cpus_per_worker=LIGHT).judging(problem) as pool:
            judged(pool, problem.evaluator, masks[n:])  # it is up
            there = timed(partial(judged, pool, problem.evaluator, masks[:n]))
        rows.append({"here_ms": 1e3 * here / n, "worker_ms": 1e3 * there / n})
    ratios = [row["worker_ms"] / row["here_ms"] for row in rows]
    return {"rows": rows, "ratio": float(np.median(ratios)), "bar": 1.05}


def vgg11(samples: int) -> PruningProblem:
    """VGG11 on random images of 32 by 32: what they show makes no difference to the time."""
    torch.manual_seed(0)
    images, labels = torch.randn(samples, 3, 32, 32), torch.arange(samples) % 10
    network = build_network("vgg11", in_channels=3, n_classes=10).eval()
    split = images, labels
    return make_problem(
        network, train=split, validation=split, budgets={"params": 0.5}, recovery="none"
    )


def threads(given: argparse.Namespace) -> Figures:
    """Two workers against two threads of this process, in turns, both being up."""
    problem = vgg11(given.samples)
    masks, rows, plain = decisions(problem, given.n + 8), [], problem.evaluator
    with RayWorkers(2).judging(problem) as workers, workers_of(problem, None) as own:
        remote = problem.evaluator
        for pool, evaluator in ((workers, remote), (own, plain)):
            judged(pool, evaluator, masks[given.n :])
        for turn in range(given.turns):
            say(f"threads: turn {turn + 1} of {given.turns}")
            both = [("threads_s", own, plain), ("workers_s", workers, remote)]
            row = {
                name: timed(partial(judged, pool, evaluator, masks[: given.n]))
                for name, pool, evaluator in (both if turn % 2 else both[::-1])
            }
            rows.append(row)
    ratios = [row["workers_s"] / row["threads_s"] for row in rows]
    return {"networks": given.n, "rows": rows, "ratio": float(np.median(ratios)), "bar": 1.05}


def private_mb(pid: int) -> float:
    """Memory that only this process holds."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        rows = [line.split() for line in file if line.startswith("Private_")]
    return sum(int(row[1]) for row in rows) / 1024.0


LIBRARIES = """
import sys
import numpy as np, ray, torch
import prune_gym.cluster.shipping, prune_gym.problem.make
torch.set_num_threads(1)
torch.nn.Conv2d(3, 8, 3)(torch.ones(1, 3, 8, 8))
print("up", flush=True)
sys.stdin.read()
"""


def memory(given: argparse.Namespace) -> Figures:
    """Memory of a worker that has judged, beyond that of a process with the libraries."""
    plain = subprocess.Popen(
        [sys.executable, "-c", LIBRARIES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with plain, tempfile.TemporaryDirectory() as noted:
        if plain.stdout is not None:
            plain.stdout.readline()
        problem = make_problem(budgets={sleeping(0.1, noted): 0.9})
        with RayWorkers(3, cpus_per_worker=LIGHT).judging(problem) as pool:
            list(pool.map(problem.evaluate, decisions(problem, 30)))
            found = [private_mb(int(pid)) for pid in os.listdir(noted)]
            bare = private_mb(plain.pid)
        plain.kill()
    beyond = float(np.median(found)) - bare
    return {"workers_mb": found, "libraries_mb": bare, "beyond_mb": beyond, "bar": 60}


@contextmanager
def killer(noted: str, every_s: float, most: int, killed: list[int]) -> Iterator[None]:
    """Kill a random one of the processes that were noted now and then."""
    ended = threading.Event()

    def kill() -> None:
        while len(killed) < most and not ended.wait(every_s):
            pids = [int(pid) for pid in os.listdir(noted) if os.path.isdir(f"/proc/{pid}")]
            if pids:
                killed.append(random.Random(len(killed)).choice(sorted(pids)))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def kills(given: argparse.Namespace) -> Figures:
    """The same search alone, and with workers of which twenty are killed."""
    n = 3 * given.kills
    alone = search(make_problem(budgets={sleeping(0.0): 0.9}), "random", evaluations=n)
    killed: list[int] = []
    workers = RayWorkers(2, cpus_per_worker=LIGHT, retries=given.kills)

    def wait(progress: Any) -> None:
        """Go on slowly, so that the search does not end before all have been killed."""
        say(f"kills: {len(killed)} of {given.kills}, {progress.evaluations} networks judged")
        if len(killed) * n < progress.evaluations * given.kills:
            time.sleep(given.every)

    with (
        tempfile.TemporaryDirectory() as noted,
        killer(noted, given.every, given.kills, killed),
    ):
        problem = make_problem(budgets={sleeping(0.5, noted): 0.9})
        result = search(problem, "random", evaluations=n, workers=workers, on_progress=wait)
    same = bool(np.array_equal(result.networks, alone.networks))
    return {"killed": len(killed), "networks": len(result), "same": same}


class UnladenHiring(Hiring):
    """Makes workers that hold no problem, and import nothing but Ray: 64 fit on any machine."""

    def _placed(self, actor: Any) -> dict[str, str]:
        self._ray.get(actor.__ray_ready__.remote())
        return {}

    def _check(self, found: Any) -> None:
        """There are no versions to compare."""


class StandingHiring(Hiring):
    """Gives workers that are up already, and leaves them so."""

    def __init__(self, ray: Any, workers: Sequence[Any]) -> None:
        super().__init__(ray, {})
        self._standing = list(workers)

    def hire(self) -> Any:
        """One of them."""
        return self._standing.pop()


class NappingPool(Pool):
    """Workers that take a nap for every network; everything else is as in a search."""

    def judge(self, question: Question) -> Judged:
        """See `Pool.judge`."""
        self.ask(Nap()).result()
        return Judged(0.5, np.array([1.0]), None, NAP_S)


def growth_of(workers: Sequence[Any], ray: Any) -> Figures:
    """Some rounds of networks by workers that are up."""
    n = len(workers)
    problem = make_problem(evaluation_samples=20)
    masks = decisions(problem, ROUNDS * n)
    pool = NappingPool(ray, StandingHiring(ray, workers), n, 600.0, 0)
    evaluator = RemoteEvaluator(problem.evaluator, pool, problem)
    try:
        with Workers(min(MOST_THREADS, AT_ONCE * n)) as threads:
            began = time.process_time()
            seconds = timed(partial(judged, threads, evaluator, masks))
            own_s = time.process_time() - began
    finally:
        pool.close()
    rate, own_ms = len(masks) / seconds, 1e3 * own_s / len(masks)
    row = {"workers": n, "per_s": rate, "of_ideal": rate * NAP_S / n, "driver_ms": own_ms}
    say(f"growth: {row}")
    return row


def growth(given: argparse.Namespace) -> Figures:
    """Networks a second against the ideal, with networks that sleep half a second."""
    import ray

    hiring = UnladenHiring(ray, {"num_cpus": LIGHT, "max_restarts": 0})
    most = max(given.workers)
    say(f"growth: {most} workers start")
    began = time.perf_counter()
    with ThreadPoolExecutor(most) as threads:
        workers = [*threads.map(lambda _: hiring.hire(), range(most))]
    say(f"growth: {most} workers are up after {time.perf_counter() - began:.0f} s")
    try:
        rows = [growth_of(workers[:n], ray) for n in given.workers]
    finally:
        hiring.dismiss_all()
    limit = 1e3 / rows[-1]["driver_ms"]  # networks a second that one core hands out
    return {"rows": rows, "bar": 0.9, "driver_per_s": limit, "driver_workers": limit * NAP_S}


PARTS = {part.__name__: part for part in (start, overhead, threads, memory, kills, growth)}


def note(name: str, figures: Figures, file: Path) -> None:
    """Write the figures of one part, and leave the others as they are."""
    print(f"{name}: {json.dumps(figures)}", flush=True)
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_json(file, {**known, name: {**figures, "of": origin()}}, indent=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[*PARTS], help=", ".join(PARTS))
    parser.add_argument("--samples", type=int, default=200, help="images of the part threads")
    parser.add_argument("--n", type=int, default=16, help="networks of the part threads")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between kills")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the figures")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.parts if name not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no part; they are {', '.join(PARTS)}")
    began = time.perf_counter()
    with RayWorkers(2).session():
        given.cluster_s = time.perf_counter() - began
        for name in given.parts:
            say(f"{name} ...")
            note(name, PARTS[name](given), given.out)


if __name__ == "__main__":
    main()
