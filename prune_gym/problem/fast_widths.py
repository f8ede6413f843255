"""Numbers of filters that a machine likes: what ``round_to="auto"`` stands for.

Processors compute channels in blocks, of 8 or 16 mostly: a layer of 11 filters takes longer than
one of 16. Which multiples are fast is measured, on compact networks of the problem itself, that
keep around half of every group: some with any number of filters, some with multiples of 2, of 4 and
so on. Each is timed in turns with all others, by the processor's time of this thread where that
tells all (the work of other programs does not count), and the fastest turn counts. A line through

    log time = a_multiple + b * log multiply-adds

says what a multiple takes at equal multiply-adds. The smallest one is taken that is at most `WORTH`
slower than the fastest: coarser steps would save nothing, and leave fewer networks to choose from.
It takes about two seconds, once for a network and a machine; the times lie in the cache then.

Where a budget is a latency, its own way of running networks is timed (threads, batch, onnxruntime,
GPU), else the way in which networks are judged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from prune_gym.budgets import as_budget, macs
from prune_gym.budgets.cuda import ready_on_cuda
from prune_gym.budgets.latency import Stopwatch, stopwatch_of
from prune_gym.budgets.resolve import where_measured
from prune_gym.errors import FileError
from prune_gym.problem.checks import AUTO
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import kept_count
from prune_gym.training.evaluation import wait_for
from prune_gym.utils.cache import cache_dir
from prune_gym.utils.devices import tf32
from prune_gym.utils.files import write_json
from prune_gym.utils.records import Positive, Record, Text, is_there, read_record
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.threads import torch_threads
from prune_gym.utils.trees import call, clone, leaves, mapped, repeated

MULTIPLES = (1, 2, 4, 8, 16, 32)
WORTH = 0.05  # of the time, that a multiple has to save against a smaller one
COARSEST = 1.2  # times the multiply-adds that a multiple may leave where half of all are wanted
FREE = 0.25  # of a limit: the smallest network of a multiple costs that at most
LONGEST_S = 1.5  # of timing
MOST_BATCH = 32
FORWARD_S = 0.02  # smaller batches are timed where a forward takes longer

_Run = Callable[[], Any]


@dataclass(frozen=True)
class FastWidths:
    """What multiples of filters take on a machine.

    Attributes:
        times: by multiple, the time at equal multiply-adds; the fastest takes 1.0.
    """

    times: dict[int, float]

    def multiple(self, most: int = MULTIPLES[-1]) -> int:
        """The smallest multiple, up to ``most``, that is hardly slower than the fastest of them."""
        allowed = {one: seconds for one, seconds in self.times.items() if one <= most}
        fastest = min(allowed.values())
        return min(one for one, seconds in allowed.items() if seconds <= (1.0 + WORTH) * fastest)


def on_fast_widths(problem: PruningProblem) -> PruningProblem:
    """The problem whose groups keep multiples that are fast here (or all of their filters).

    A multiple is not taken where its smallest network uses up `FREE` of a limit: too few networks
    would be left to choose from.

    Args:
        problem: of any multiple.
    """
    found, arguments = 1, problem.arguments
    if problem.structure == "filter":
        widths = fast_widths(problem)
        found = widths.multiple()
        while found > 1 and not _leaves_room(replace(problem, round_to=found)):
            found = widths.multiple(found // 2)
    if arguments is not None:  # whoever goes on elsewhere has the same problem
        arguments = {**arguments, "round_to": found}
    return replace(problem, round_to=found, arguments=arguments)


def usual_multiple(budgets: Mapping[Any, Any]) -> int | str:
    """Of a search that was told none: ``"auto"`` where a time is limited, else 1.

    At equal multiply-adds or parameters coarser steps cost accuracy; what they save is time.

    Args:
        budgets: limits by budget, as `make_problem` takes them.
    """
    return AUTO if any(as_budget(key).unit in ("s", "ms", "us") for key in budgets) else 1


def multiples_in_words(problem: PruningProblem) -> str:
    """``multiples of 8, which takes 0.87 of the time of any number``, of a problem made by auto."""
    if problem.structure == "weight" or problem.round_to == 1:
        return "any number: no multiple is faster here, or the limits leave no room for one"
    times = fast_widths(problem).times
    share = times[problem.round_to] / times[1]
    return (
        f"multiples of {problem.round_to}: at equal multiply-adds {share:.2f} of the time of any "
        "number, as measured here"
    )


def _leaves_room(problem: PruningProblem) -> bool:
    """Whether the smallest network is well within every limit."""
    smallest = problem.kept_counts(np.ones(len(problem.groups)))
    costs = problem.costs(problem.masks_of(smallest))
    return bool((costs <= FREE * np.array(problem.limits)).all())


def fast_widths(problem: PruningProblem) -> FastWidths:
    """What multiples of filters take where a problem's networks run; from the cache if it is there.

    Args:
        problem: its network, its layout, and its budgets.
    """
    watch = next((found for found in map(stopwatch_of, problem.budgets) if found), None)
    if watch is None:
        return FastWidths(_times(problem, None))
    return FastWidths(where_measured(_times, problem, watch))


def _times(problem: PruningProblem, watch: Stopwatch | None) -> dict[int, float]:
    """Times by multiple on this machine, from its cache if they are there."""
    file = _file(problem, watch)
    with contextlib.suppress(FileError):  # damaged: it is measured anew
        if is_there(file, FileError):
            times = read_record(file, _Cached, FileError)["times"]
            return {int(multiple): seconds for multiple, seconds in times.items()}
    found = _measured(problem, watch)
    with contextlib.suppress(FileError):
        write_json(file, {"processor": _processor(problem.device), "times": found})
    return found


class _Cached(Record):
    processor: Text
    times: Annotated[dict[Literal["1", "2", "4", "8", "16", "32"], Positive], Field(min_length=1)]


def _file(problem: PruningProblem, watch: Stopwatch | None) -> Path:
    """Where the times of such networks on this machine are kept."""
    way: tuple[Any, ...] = (problem.layout.channels_last, problem.layout.precision)
    if watch is not None:
        way = (watch.ready.__name__, watch.batch_size, watch.threads)
    key = (
        _processor(problem.device),
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        way,
        problem.sizes.tolist(),
        [list(tensor.shape) for tensor in problem.network.state_dict().values()],
        [list(tensor.shape) for tensor in leaves(problem.example)],
    )
    name = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
    return cache_dir() / "fast_widths" / f"{name}.json"


def _processor(device: torch.device) -> str:
    """The name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _measured(problem: PruningProblem, watch: Stopwatch | None) -> dict[int, float]:
    """Time at equal multiply-adds by multiple, relative to the fastest."""
    counts = _candidates(problem)
    networks = [problem.compact(problem.masks_of(row)) for rows in counts.values() for row in rows]
    work = [macs()(network, problem.example) for network in networks]
    threads = 1 if watch is None else watch.threads
    with torch_threads(threads):
        runs, clock = _ready(problem, watch, networks)
        seconds = _in_turns(runs, clock)
    of_multiple = np.repeat(np.arange(len(counts)), [len(rows) for rows in counts.values()])
    columns = np.eye(len(counts))[of_multiple]
    design = np.column_stack([columns, np.log(work)])
    levels = np.linalg.lstsq(design, np.log(seconds), rcond=None)[0][:-1]
    relative = np.exp(levels - levels.min())
    return dict(zip(counts, relative.tolist(), strict=True))


def _candidates(problem: PruningProblem) -> dict[int, NDArray[np.int64]]:
    """Filters kept per group, (3, n_groups), of networks around half, by multiple.

    A multiple so large that groups of few filters stay whole is left out.
    """
    generator = np.random.default_rng(0)
    model = problem.cost_model.of_budgets([macs()])
    centres = np.array([0.4, 0.5, 0.6])[:, None]
    removed = centres + generator.uniform(-0.1, 0.1, (len(centres), len(problem.groups)))
    sizes, found, least = problem.sizes.tolist(), {}, 0.0
    for multiple in MULTIPLES:
        if multiple > 1 and multiple >= max(sizes):
            break
        counts = np.array(
            [
                [kept_count(float(ratio), n, multiple) for ratio, n in zip(row, sizes, strict=True)]
                for row in removed
            ]
        )
        left = float(model.counted_costs(counts).mean())
        least = least or left
        if left <= COARSEST * least:
            found[multiple] = counts
    return found


def _ready(
    problem: PruningProblem, watch: Stopwatch | None, networks: list[nn.Module]
) -> tuple[list[_Run], Callable[[], float]]:
    """What runs each network, and the clock that times it."""
    is_here = time.get_clock_info("thread_time").resolution < 1e-5
    if watch is not None:
        images = repeated(problem.example, watch.batch_size)
        runs = [watch.ready(network, images, watch.threads) for network in networks]
        is_here = is_here and watch.threads == 1 and watch.ready is not ready_on_cuda
    else:
        is_here = is_here and problem.device.type == "cpu"
        fast = [problem.layout.convert(network) for network in networks]
        images = _batch(problem, fast[0])
        runs = [_forward(problem, network, images) for network in fast]
    clock = time.thread_time if is_here else time.perf_counter
    return runs, clock


def _batch(problem: PruningProblem, network: nn.Module) -> Any:
    """Inputs of a forward that takes about `FORWARD_S`, if one of a single example does not."""
    train, size, seconds = problem.data.train, 1, 0.0
    while True:
        inputs = train.batch(train.spread(min(size, len(train))))
        images = mapped(problem.layout.to_layout, inputs)
        seconds = _in_turns([_forward(problem, network, images)], time.perf_counter, 0.0)[0]
        if size >= min(MOST_BATCH, len(train)) or 2.0 * seconds > FORWARD_S:
            return images
        size *= 2


def _forward(problem: PruningProblem, network: nn.Module, images: Any) -> _Run:
    """One forward of a network in the layout in which networks are judged."""
    device, layout = problem.device, problem.layout

    def run() -> None:
        with torch.inference_mode(), tf32(device, layout.precision == "tf32"):
            call(network, clone(images) if layout.in_place else images)
            wait_for(device)

    return run


def _in_turns(
    runs: list[_Run], clock: Callable[[], float], longest_s: float = LONGEST_S
) -> NDArray[np.float64]:
    """Seconds of each run in its fastest turn, (n_runs,)."""
    for run in runs:  # warms up
        run()
    best, began, turns = np.full(len(runs), np.inf), time.perf_counter(), 0
    while turns < 2 or time.perf_counter() - began < longest_s:
        turns += 1
        for index, run in enumerate(runs):
            check_stop()
            start = clock()
            run()
            best[index] = min(best[index], max(clock() - start, 1e-9))
    return best
