"""What `bench_step.py` measures beside one episode: worker processes, the agent, a whole search."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from step_subjects import Subject

import prune_gym
from agents import BudgetToyEnv, PPOLagrangian
from prune_gym.problem.sharing import SharedProblem
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.finalize import finish
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.search import Search

SECONDS = 12.0  # that a number of workers is measured for


# -- worker processes ------------------------------------------------------------------------------


def throughput(shared: SharedProblem, ratio: float, turns: int) -> dict[str, Any]:
    """Episodes a second of one and of two subprocess workers with one thread each, in turns."""
    make = partial(gym.make, "Prune-v0", problem=shared)
    rates: dict[int, list[float]] = {1: [], 2: []}
    began: list[float] = []
    venvs: dict[int, VecEnv] = {}
    for n in rates:
        start = time.perf_counter()
        venvs[n] = SubprocVecEnv([make] * n, start_method="spawn")
        venvs[n].reset()
        began.append(time.perf_counter() - start)
    generator = np.random.default_rng(0)
    for turn in range(turns + 1):
        for n, venv in venvs.items():
            rate = _episodes_a_second(venv, ratio, generator, 2.0 if turn == 0 else SECONDS)
            rates[n] += [rate] if turn else []
    for venv in venvs.values():
        venv.close()
    return {
        "episodes_per_s": {str(n): found for n, found in rates.items()},
        "ratio": statistics.median(b / a for a, b in zip(rates[1], rates[2], strict=True)),
        "start_s": {str(n): seconds for n, seconds in zip(rates, began, strict=True)},
    }


def _episodes_a_second(
    venv: VecEnv, ratio: float, generator: np.random.Generator, seconds: float
) -> float:
    """Every episode is a new network of about the same size, so that none is remembered."""
    start, finished = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or finished == 0:
        drawn = np.clip(ratio + generator.uniform(-0.1, 0.1, (venv.num_envs, 1)), 0.0, 1.0)
        _, _, dones, _ = venv.step((2.0 * drawn - 1.0).astype(np.float32))
        finished += int(dones.sum())
        if dones.any():
            end = time.perf_counter()
    return finished / (end - start)


def memory(shared: SharedProblem, ratio: float) -> dict[str, float]:
    """Megabytes of a worker that are its own, beyond those of one that imports the libraries.

    Two workers run at once, since the pages of a file that one process maps count as its own.
    """
    context = multiprocessing.get_context("spawn")
    found: dict[str, float] = {}
    for job in ("libraries", "opened", "after episodes"):
        queue, both = context.Queue(), context.Barrier(2)
        given = (job, shared, ratio, queue, both)
        workers = [context.Process(target=_own_memory, args=given) for _ in range(2)]
        for worker in workers:
            worker.start()
        found[job] = max(queue.get(timeout=600) for _ in workers)
        for worker in workers:
            worker.join()
    return {job: found[job] - found["libraries"] for job in ("opened", "after episodes")}


def _own_memory(job: str, shared: SharedProblem, ratio: float, queue: Any, both: Any) -> None:
    torch.set_num_threads(1)
    layer = torch.nn.Conv2d(3, 8, 3)
    layer(torch.zeros(4, 3, 32, 32)).sum().backward()  # loads what the libraries load late
    if job != "libraries":
        env = gym.make("Prune-v0", problem=shared)
        env.reset(seed=0)
        for episode in range(3 if job == "after episodes" else 0):
            env.reset()
            terminated = False
            while not terminated:
                action = np.array([2.0 * (ratio + 0.01 * episode) - 1.0], np.float32)
                _, _, terminated, _, _ = env.step(np.clip(action, -1.0, 1.0))
    both.wait(timeout=600)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    own = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    both.wait(timeout=600)
    queue.put(sum(own) / 1024)


# -- the agent -------------------------------------------------------------------------------------


def agents(turns: int) -> dict[str, Any]:
    """Seconds of an iteration (rollout and update) of PPO and PPOLagrangian on the toy."""
    with torch.random.fork_rng():
        models = {
            kind.__name__: kind(
                "MlpPolicy",
                DummyVecEnv([BudgetToyEnv] * 8),
                n_steps=64,
                batch_size=64,
                seed=0,
                device="cpu",
            )
            for kind in (PPO, PPOLagrangian)
        }
        times: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(turns + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model.learn(5 * 8 * 64, reset_num_timesteps=False)
                if turn:
                    times[name].append((time.perf_counter() - start) / 5)
    ratios = [b / a for a, b in zip(times["PPO"], times["PPOLagrangian"], strict=True)]
    return {"seconds": times, "ratio": statistics.median(ratios)}


# -- a whole search --------------------------------------------------------------------------------


class _Clock:
    """Adds up the seconds of calls, of all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def around(self, owner: Any, name: str, label: str) -> None:
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    spent = time.perf_counter() - start
                    self.seconds[label] = self.seconds.get(label, 0.0) + spent

        if isinstance(owner, type):
            setattr(owner, name, timed)
        else:
            vars(owner)[name] = timed  # a frozen problem, too


def whole_search(timesteps: int) -> dict[str, Any]:
    """A search and its fine-tuning with the defaults: seconds by what they are spent on.

    Steps of the environments run in threads, so those seconds are counted on the main thread,
    which waits for them; evaluation is all of a rollout that its threads spend judging.
    """
    clock = _Clock()
    start = time.perf_counter()
    problem = prune_gym.make_problem()
    made = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig("PruneVGG-v0", "ppo_lag", timesteps, 0, 300, {"network": "small"})
        search = Search(problem, config, RunFolder.create(Path(folder) / "run", config))
        clock.around(problem, "evaluate", "evaluation, in threads")
        clock.around(search.archive, "on_add", "recording")
        methods = {"train": "update of the agent", "collect_rollouts": "rollouts"}
        originals = {name: getattr(PPOLagrangian, name) for name in methods}
        for name, label in methods.items():
            clock.around(PPOLagrangian, name, label)
        try:
            began = time.perf_counter()
            search.run()
            searched = time.perf_counter() - began
        finally:
            for name, function in originals.items():
                setattr(PPOLagrangian, name, function)
        began = time.perf_counter()
        search.archive.feasible_masks()
        finish(
            search.result,
            search.run_folder.path,
            wall_s=lambda: searched,
            on_step=lambda step, loss: None,
        )
        finished = time.perf_counter() - began
    spent = clock.seconds
    return {
        "wall_s": time.perf_counter() - start,
        "loading_s": made,
        "search_s": searched,
        "rollouts_s": spent["rollouts"],
        "evaluation_in_threads_s": spent["evaluation, in threads"],
        "update_s": spent["update of the agent"],
        "recording_s": spent["recording"],
        "finish_s": finished,
        "networks": len(search.archive.trials),
    }


def shared_subject(subject: Subject) -> SharedProblem:
    """The subject's problem, shared; its workers remember nothing."""
    _ = subject.env
    return prune_gym.share(subject.problem)
