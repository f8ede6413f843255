"""A problem on its way to the workers, and what comes back from them."""

from __future__ import annotations

import copy
import io
import pickle
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from agents.own_code import by_value
from agents.ray_errors import full_store, words_of
from prune_gym.errors import ClusterError, PruneGymError, SharingError
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.sharing import bytes_of, read_arrays, write_arrays
from prune_gym.pruning.masks import Masks
from prune_gym.training.recovery import is_fixed


@dataclass(frozen=True)
class Judged:
    """What a worker found.

    Attributes:
        accuracy: the reward.
        values: (n_budgets,) float64, the budgets in their units; None where they are measured
            elsewhere.
        network: the recovered network, pickled, where building it again would take a training.
        seconds: how long it took.
        share: of the validation examples that it was judged on.
    """

    accuracy: float
    values: NDArray[np.float64] | None
    network: bytes | None
    seconds: float
    share: float = 1.0


@dataclass(frozen=True)
class Question:
    """A network that a worker is to judge.

    Attributes:
        masks: valid keep masks.
        seed: of a recovery that draws random numbers.
        steps: of a recovery that trains.
        least: accuracy that it has to exceed in a race; None = it is judged whole.
        is_judged: whether its accuracy is asked for.
        is_measured: whether its budgets are.
    """

    masks: Masks
    seed: int
    steps: int
    least: float | None = None
    is_judged: bool = True
    is_measured: bool = True

    def answered(self, problem: PruningProblem) -> Judged | Refused:
        """Judge the network, in a worker."""
        began, evaluator = time.perf_counter(), problem.evaluator
        accuracy, share, values = float("nan"), 1.0, None
        try:
            network = evaluator.built(self.masks, self.seed, self.steps)
            if self.is_judged:
                accuracy, share = evaluator.raced(network, self.least)
            if self.is_measured:
                values = evaluator.values(self.masks, network)
        except Exception as error:  # goes on where the search is
            return refused(error)
        sent = None if is_fixed(problem.recovery) else pickled(network.cpu())
        return Judged(accuracy, values, sent, time.perf_counter() - began, share)


@dataclass(frozen=True)
class Refused:
    """The error that a network's evaluation raised, as it would have raised it here."""

    error: BaseException


def pack(problem: PruningProblem) -> tuple[bytes, NDArray[np.uint8]]:
    """The problem in two parts: pickled without its arrays, and (n_bytes,) all arrays.

    Code of the user's own, modules that no package of this installation holds, goes along by value.

    Raises:
        SharingError: something in it cannot be pickled.
    """
    _ = problem.evaluator  # made here: its images go along, and its batch size holds everywhere
    if problem.device.type != "cpu":
        problem = moved(problem, "cpu")
        _ = problem.evaluator
    file = io.BytesIO()
    with by_value():
        rest, _n_bytes = write_arrays(problem, file)
    return rest, np.frombuffer(file.getbuffer(), dtype=np.uint8)


def unpack(rest: bytes, arrays: NDArray[np.uint8], device: str) -> PruningProblem:
    """The problem of `pack`, on a device; its arrays are not copied where that is the CPU.

    Args:
        rest: the one part.
        arrays: the other one; it may be read-only, as nothing here writes to what was given.
        device: of torch.
    """
    problem = read_arrays(rest, bytes_of(arrays))
    return problem if device == "cpu" else moved(problem, device)


def moved(problem: PruningProblem, device: str) -> PruningProblem:
    """The problem on another device; networks are judged there in the same batches."""
    return replace(
        problem,
        network=copy.deepcopy(problem.network).to(device),
        data=problem.data.to(device),
        batch_size=problem.evaluator.validation.batch_size,
    )


def called(function: bytes, arguments: Sequence[bytes]) -> Any:
    """What a pickled function of pickled arguments gives; a `Refused` where it raised."""
    try:
        run, *given = (pickle.loads(part) for part in (function, *arguments))
        return run(*given)
    except Exception as error:  # goes on where it was asked for
        return refused(error)


def pickled(value: Any) -> bytes:
    """Anything, for another machine; code of the user's own goes along by value.

    Raises:
        SharingError: it cannot be pickled.
    """
    try:
        with by_value():
            return bytes(cloudpickle.dumps(value))
    except Exception as error:  # of pickling anything
        raise SharingError(
            f"{type(value).__name__} cannot be sent to another machine, as something in it cannot "
            f"be pickled: {error}."
        ) from error


def stored(ray: Any, value: Any, what: str, n_bytes: int) -> Any:
    """A reference to a value in the object store.

    Args:
        ray: the module, connected.
        value: to be put there.
        what: it is, in words.
        n_bytes: of it, about.

    Raises:
        ClusterError: the store is full, or there is no connection.
    """
    try:
        return ray.put(value)
    except full_store(ray) as error:
        raise store_is_full(f"{what} takes {n_bytes / 1e6:,.0f} MB") from error
    except ray.exceptions.RayError as error:
        raise ClusterError(f"{what} was not taken by the cluster: {words_of(error)}") from error


def store_is_full(what: str) -> ClusterError:
    """The error to raise then, with the cure.

    Args:
        what: did not fit, in words.
    """
    return ClusterError(
        f"the object store of the cluster is full: {what}. Start Ray with more (ray start "
        "--object-store-memory BYTES), free space where it spills to, or judge on fewer images "
        "(evaluation_samples)."
    )


def refused(error: BaseException) -> Refused:
    """An error on its way back: itself, or its words where it cannot be pickled.

    A module that is not there is the machine's fault, which is named.
    """
    missing = _missing_module(error)
    if missing is not None:
        return Refused(ClusterError(lacks_code(platform.node(), missing)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its own pickling raises
        return Refused(PruneGymError(f"{type(error).__name__}: {error}"))
    return Refused(error)


def lacks_code(machine: str, words: object) -> str:
    """A sentence on a module that a machine of the cluster lacks, with the cure."""
    return (
        f"machine {machine} lacks code that the problem needs: {words}. Install it there, or send "
        "it along: RayWorkers(runtime_env={'py_modules': [...]}) or {'pip': [...]}."
    )


def lacks_gpu(machine: str) -> str:
    """A sentence on a machine of the cluster whose GPUs torch cannot use, with the cure."""
    return (
        f"gpus_per_worker: Ray lends GPUs of machine {machine}, and torch {torch.__version__} "
        "finds none there that it can use. Install a torch with CUDA and its driver there, or "
        "leave gpus_per_worker out."
    )


def _missing_module(error: BaseException | None) -> ImportError | None:
    """What was behind an error, where that is an import that failed."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__
    return error
