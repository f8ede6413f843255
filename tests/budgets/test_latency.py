"""Timing: the logic by a clock of the test's own, and one lenient look at this machine."""

from __future__ import annotations

import pickle
import time

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch

import prune_gym
from prune_gym import BUDGETS, Budget, BudgetError, latency_ms
from prune_gym.budgets.cuda import cuda_latency_ms, cuda_memory_bytes
from prune_gym.budgets.latency import Stopwatch, Timer, placed_on
from prune_gym.utils.threads import torch_threads


class Machine:
    """A clock that runs take as long as they are told to move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: list[str] = []

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, seconds):
        """A run that takes ``seconds`` (a number, or one number after the other)."""
        durations = iter(lambda: seconds, None) if isinstance(seconds, float) else iter(seconds)

        def run() -> None:
            self.runs.append(name)
            self.now += next(durations)

        return run


def test_the_median_after_the_warm_up():
    machine = Machine()
    durations = [9.0, 9.0, 2.0, 2.1, 1.9, 2.0, 70.0]
    timer = Timer(repeats=5, warm_up=2, error=0.1, clock=machine)
    assert timer.seconds(machine.run("a", durations)) == pytest.approx(2.0)
    assert len(machine.runs) == 7


def test_ratios_are_of_turns():
    """The machine slows down to a tenth of its speed meanwhile: the ratio stays."""
    machine = Machine()
    slower = np.linspace(1.0, 10.0, 33)
    timer = Timer(repeats=30, clock=machine)
    ratio = timer.ratio(machine.run("net", 0.4 * slower), machine.run("whole", slower))
    assert ratio == pytest.approx(0.4)
    assert machine.runs[6:10] == ["net", "whole", "net", "whole"]


def test_short_runs_are_timed_many_at_once():
    machine = Machine()
    timer = Timer(repeats=4, warm_up=1, clock=machine)
    assert timer.seconds(machine.run("a", 0.00025)) == pytest.approx(0.00025)
    assert len(machine.runs) == 1 + 4 * 4
    machine.runs.clear()
    timer.seconds(machine.run("a", 0.0))  # a clock too coarse to see it
    assert len(machine.runs) == 1 + 4 * 100


def test_a_busy_machine_is_given_time_and_then_named():
    machine = Machine()
    draws = np.random.default_rng(0)
    widely = (float(10 ** draws.uniform(0.0, 4.0)) for _ in range(10**6))
    timer = Timer(repeats=10, warm_up=0, attempts=3, pause_s=0.01, clock=machine)
    began = time.monotonic()
    with pytest.raises(
        BudgetError,
        match=r"too busy to time anything: the middle half of 30 timings spreads over \d+% of "
        r"their median, which leaves it a standard error of \d+.\d% \(error=0.05 is allowed\). "
        r"Stop other programs, allow more with latency_ms\(error=0.1\)",
    ):
        timer.seconds(machine.run("a", widely))
    assert len(machine.runs) == 3 * (1 + 10)
    assert 0.03 <= time.monotonic() - began < 5.0  # it waited 0.01 and 0.02 seconds
    lenient = Timer(repeats=10, error=9.0, clock=machine)
    assert lenient.seconds(machine.run("a", widely)) > 0.0


def test_more_timings_are_taken_until_the_median_is_known():
    machine = Machine()
    draws = np.random.default_rng(0)
    noisy = (float(1.0 + 0.2 * draws.standard_normal()) for _ in range(10**6))
    timer = Timer(repeats=20, warm_up=1, error=0.025, attempts=50, pause_s=0.0, clock=machine)
    assert timer.seconds(machine.run("a", noisy)) == pytest.approx(1.0, abs=0.08)
    assert 21 < len(machine.runs) < 1000


def pair(durations):
    """A stopwatch on which each network takes what is written by its number of parameters."""
    machine = Machine()

    def ready(network, images, threads):
        ready.seen.append((tuple(images.shape), threads))
        size = sum(p.numel() for p in network.parameters())
        return machine.run(str(size), durations(size))

    ready.seen = []
    return Stopwatch(ready, 4, 2, Timer(clock=machine)), ready


def test_costs_are_ratios_of_the_same_moment():
    speed = [1.0]
    stopwatch, ready = pair(lambda size: (speed[0] * size for _ in range(10**6)))
    problem = tiny.make_tiny(budgets={stopwatch.budget("time"): 0.9})
    dense = problem.unpruned_values[0]
    assert dense == pytest.approx(1000.0 * 765)
    speed[0] = 7.0  # the machine is slower now
    outcome = problem.evaluate(problem.masks_of([2, 3, 4]))
    size = sum(p.numel() for p in outcome.network.parameters())
    assert outcome.costs["time"] == pytest.approx(size / 765)
    assert outcome.values["time"] == pytest.approx(1000.0 * size)  # as fast as it was at first
    assert set(ready.seen) == {((4, 1, 8, 8), 2)}
    made = len(ready.seen)
    problem.evaluate(problem.masks_of([1, 3, 4]))
    assert len(ready.seen) == made + 1  # the unpruned network was made ready once


def test_a_budget_of_ones_own_in_turns():
    speed = [1.0]
    calls = []

    def measure(network):
        size = sum(p.numel() for p in network.parameters())
        calls.append(size)
        return speed[0] * size

    problem = tiny.make_tiny(budgets={Budget("own", measure, in_turns=True): 0.9})
    speed[0] = 3.0
    outcome = problem.evaluate(problem.masks_of([2, 3, 4]))
    assert outcome.costs["own"] == pytest.approx(calls[-1] / 765)
    assert calls[-2] == 765
    speed[0] = 0.0
    with pytest.raises(BudgetError, match=r"budget 'own' of the unpruned network is now 0.0"):
        problem.evaluate(problem.masks_of([2, 3, 5]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repeats": 1}, "repeats=1 must be a whole number of at least 2"),
        ({"warm_up": -1}, "warm_up=-1 must be a whole number of at least 0"),
        ({"attempts": True}, "attempts=True must be a whole number"),
        ({"error": 0.0}, "error=0.0 must be above 0, e.g. 0.05"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"threads": 1.5}, "threads=1.5 must be a whole number of at least 1"),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        latency_ms(**arguments)


def test_this_machine():
    """Lenient: a network ten times as heavy takes longer, in processor time."""
    budget = latency_ms(batch_size=16, name="mine", clock=time.thread_time, error=0.5)
    problem = prune_gym.make_problem(budgets={budget: 1.0})
    outcome = problem.evaluate(problem.masks_of(np.maximum(1, problem.sizes // 8)))
    assert problem.names == ("mine",)
    assert 0.0 < outcome.costs["mine"] < 0.9


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_latency_is_not_charged_densely():
    budget = Budget("latency_ms", lambda network: 1.0 + network.classifier.in_features, unit="ms")
    problem = tiny.make_tiny(budgets={budget: 1.0})
    for name in ("latency_ms", "onnx_latency_ms", "cuda_latency_ms", "cuda_memory_bytes"):
        made = BUDGETS.get(name)()
        assert not made.monotone
        assert not made.is_deterministic
    with pytest.raises(ValueError, match=r"cost_mode='dense' with budget 'latency_ms': .*noise"):
        gym.make("Prune-v0", problem=problem, cost_mode="dense")


def test_budgets_can_go_to_other_processes():
    problem = tiny.make_tiny(
        network="residual",
        budgets={latency_ms(error=9.0): 1.0},
        unpruned_values={"latency_ms": 1000.0},  # no noise is above it
    )
    problem.costs(problem.masks_of(problem.sizes))
    again = pickle.loads(pickle.dumps(problem.budgets[0]))
    assert repr(again) == repr(problem.budgets[0])
    assert again(problem.network, problem.example) > 0.0


def test_networks_move_only_where_they_must():
    network = tiny.build("vgg")
    assert placed_on(network, torch.device("cpu")) is network
    moved = placed_on(network, torch.device("meta"))
    assert {p.device.type for p in moved.parameters()} == {"meta"}
    assert {p.device.type for p in network.parameters()} == {"cpu"}


# -- an NVIDIA GPU ---------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
@pytest.mark.parametrize("name", ["cuda_latency_ms", "cuda_memory_bytes"])
def test_without_a_gpu(name):
    with pytest.raises(
        BudgetError,
        match=rf"budget '{name}': there is no NVIDIA GPU that torch can use here. Choose",
    ):
        tiny.make_tiny(budgets={name: 0.5})


@pytest.fixture
def fake_gpu(monkeypatch):
    """The CPU in the place of a GPU; memory is what the test says it is."""
    told = {"synchronize": 0, "allocated": 1000, "peak": 0}

    def synchronize():
        told["synchronize"] += 1

    monkeypatch.setattr("prune_gym.budgets.cuda.device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: told["allocated"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: told.update(peak=5000))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: told["peak"])
    return told


def test_every_forward_is_waited_for(fake_gpu):
    budget = cuda_latency_ms(batch_size=2, repeats=2, warm_up=1, error=99.0, attempts=1)
    network = tiny.build("vgg")
    forwards = []
    network.register_forward_hook(lambda *_: forwards.append(fake_gpu["synchronize"]))
    assert budget(network, tiny.images_of(1)) > 0.0
    assert forwards == list(range(len(forwards)))
    assert fake_gpu["synchronize"] == len(forwards) >= 3


def test_peak_memory(fake_gpu):
    budget = cuda_memory_bytes(batch_size=3)
    seen = []
    network = tiny.build("vgg")
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert budget(network, tiny.images_of(1)) == 4000.0
    assert seen == [(3, 1, 8, 8)]
