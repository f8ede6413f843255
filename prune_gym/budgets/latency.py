"""Latency: how long one forward takes, by the side of the unpruned network.

The speed of a machine drifts: a number from an hour ago says little beside one of now. A cost is
therefore always the ratio of two networks that are timed in turns, forward by forward, and the
milliseconds reported are that ratio times those of the unpruned network when the problem was made.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from prune_gym.budgets.base import BUDGETS, Budget
from prune_gym.errors import BudgetError, InvalidValueError
from prune_gym.utils.arguments import whole_number
from prune_gym.utils.memory import memory_bound
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.threads import torch_threads
from prune_gym.utils.trees import call, clone, mapped, repeated

Run = Callable[[], Any]
Clock = Callable[[], float]

_OF_SPREAD = 0.93  # standard error of a median * sqrt(n) / width of the middle half (normal)
SHORTEST_S = 0.001  # shorter forwards are timed several at once, for the clock's sake


@dataclass(frozen=True)
class Timer:
    """How forwards are timed.

    Attributes:
        repeats: timings per network that count.
        warm_up: forwards before them.
        error: the standard error of the median, as a fraction of it, that is allowed (of the
            median ratio, where two networks are timed in turns).
        attempts: how often ``repeats`` more are timed while it is larger; the last ones alone, or
            all together, must have a smaller one.
        pause_s: seconds to wait before the second attempt, twice as long before the next.
        clock: gives seconds.
    """

    repeats: int = 30
    warm_up: int = 3
    error: float = 0.05
    attempts: int = 5
    pause_s: float = 0.2
    clock: Clock = time.perf_counter

    def __post_init__(self) -> None:
        """Every number has its least value."""
        for name, least in (("repeats", 2), ("warm_up", 0), ("attempts", 1)):
            whole_number(name, getattr(self, name), least)
        if not self.error > 0:
            raise InvalidValueError(f"error={self.error!r} must be above 0, e.g. 0.05.")

    def seconds(self, run: Run) -> float:
        """Median seconds of a run.

        Raises:
            BudgetError: the timings spread too widely after every attempt.
        """
        return self._steady(lambda: self._timings([run])[0])

    def ratio(self, run: Run, beside: Run) -> float:
        """Median of (seconds of one run / of the other), both timed in turns."""

        def ratios() -> list[float]:
            ones, others = self._timings([run, beside])
            return [one / other for one, other in zip(ones, others, strict=True)]

        return self._steady(ratios)

    def _steady(self, timings: Callable[[], list[float]]) -> float:
        values: list[float] = []
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause_s * 2 ** (attempt - 1))
            latest = timings()
            values += latest
            for found in (latest, values):
                median, spread, error = _median(found)
                if error <= self.error:
                    return median
        raise BudgetError(
            f"this machine is too busy to time anything: the middle half of {len(values)} timings "
            f"spreads over {spread:.0%} of their median, which leaves it a standard error of "
            f"{error:.1%} (error={self.error:g} is allowed). Stop other programs, allow more with "
            "latency_ms(error=0.1) or latency_ms(repeats=200), or do not count while others have "
            "the core: latency_ms(clock=time.thread_time). (The command line takes it as "
            "MODULE:NAME.)"
        )

    def _timings(self, runs: Sequence[Run]) -> list[list[float]]:
        """Seconds of each run, ``repeats`` times, in turns."""
        at_once = [self._warm(run) for run in runs]
        found: list[list[float]] = [[] for _ in runs]
        for _ in range(self.repeats):
            check_stop()
            for index, run in enumerate(runs):
                start = self.clock()
                for _ in range(at_once[index]):
                    run()
                found[index].append(max(self.clock() - start, 1e-9) / at_once[index])
        return found

    def _warm(self, run: Run) -> int:
        """Run the warm-up; how many runs make a timing that is long enough."""
        shortest = float("inf")
        for _ in range(max(1, self.warm_up)):
            check_stop()
            start = self.clock()
            run()
            shortest = min(shortest, self.clock() - start)
        return max(1, min(100, round(SHORTEST_S / max(shortest, 1e-9))))


def _median(values: list[float]) -> tuple[float, float, float]:
    """The median, the width of the middle half, and the median's standard error.

    Both are fractions of the median.
    """
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    spread = (high - low) / median
    return median, spread, _OF_SPREAD * spread / math.sqrt(len(values))


@dataclass(frozen=True)
class Stopwatch:
    """Times networks: what the latency budgets are made of.

    Attributes:
        ready: makes a network ready: (network, images, threads) -> run.
        batch_size: images a forward.
        threads: cores that it may use.
        timer: how it is timed.
    """

    ready: Callable[[nn.Module, Any, int], Run]
    batch_size: int
    threads: int
    timer: Timer
    _latest: dict[nn.Module, Run] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Both numbers are whole."""
        for name in ("batch_size", "threads"):
            whole_number(name, getattr(self, name), 1)

    def __getstate__(self) -> dict[str, Any]:
        """All but what was made ready in this process."""
        return {**vars(self), "_latest": {}}

    def milliseconds(self, network: nn.Module, example: Any) -> float:
        """Median milliseconds of one forward."""
        with torch_threads(self.threads):
            run = self._run(network, example)
            self._latest.clear()
            self._latest[network] = run
            return 1000.0 * self.timer.seconds(run)

    def ratio(self, network: nn.Module, unpruned: nn.Module, example: Any) -> float:
        """Milliseconds of a network / those of the unpruned one, timed in turns."""
        with torch_threads(self.threads):
            beside = self._latest.get(unpruned)  # it never changes: made ready once
            if beside is None:
                beside = self._run(unpruned, example)
                self._latest.clear()
                self._latest[unpruned] = beside
            return self.timer.ratio(self._run(network, example), beside)

    def _run(self, network: nn.Module, example: Any) -> Run:
        return self.ready(network, repeated(example, self.batch_size), self.threads)

    def budget(self, name: str) -> Budget:
        """The budget of these milliseconds."""
        return Budget(name, unit="ms", measure_on=self.milliseconds, compare=self.ratio)


def stopwatch_of(budget: Budget) -> Stopwatch | None:
    """What a latency budget times networks with; None for any other budget."""
    owner = getattr(budget.measure_on, "__self__", None)
    return owner if isinstance(owner, Stopwatch) else None


@BUDGETS.register
def latency_ms(
    batch_size: int = 1, threads: int = 1, name: str = "latency_ms", **timer: Any
) -> Budget:
    """Milliseconds of one forward on this machine's CPU: one image, one thread, median of 30.

    Not monotone: a network with fewer filters may take longer, by noise or by awkward sizes.

    Args:
        batch_size: images a forward.
        threads: cores that torch may use.
        name: of the budget.
        timer: of `Timer`: repeats, warm_up, error, attempts, pause_s, clock.
    """
    return Stopwatch(ready_on_cpu, batch_size, threads, Timer(**timer)).budget(name)


def ready_on_cpu(network: nn.Module, images: Any, threads: int) -> Run:
    """One forward of a network in evaluation mode, on the CPU."""
    placed, images = placed_on(network, torch.device("cpu")), mapped(torch.Tensor.cpu, images)

    def run() -> None:
        # the input is copied: a first layer that works in place would write to it
        with torch.inference_mode(), memory_bound("a batch of so many is too large here"):
            call(placed, clone(images))

    return run


def placed_on(network: nn.Module, device: torch.device) -> nn.Module:
    """The network itself where it is on the device (or has no tensors), else a copy there."""
    tensors = (*network.parameters(), *network.buffers())
    if all(tensor.device.type == device.type for tensor in tensors):
        return network
    return copy.deepcopy(network).to(device)
