"""A problem on its way to the workers, and what comes back from them."""

from __future__ import annotations

import copy
import io
import os
import pickle
import site
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from prune_gym.errors import PruneGymError, SharingError
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.sharing import read_arrays, write_arrays
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
    with by_value(own_modules()):
        rest, _n_bytes = write_arrays(problem, file)
    return rest, np.frombuffer(file.getbuffer(), dtype=np.uint8)


def unpack(rest: bytes, arrays: NDArray[np.uint8], device: str) -> PruningProblem:
    """The problem of `pack`, on a device; its arrays are not copied where that is the CPU.

    Args:
        rest: the one part.
        arrays: the other one; it may be read-only, as nothing here writes to what was given.
        device: of torch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of arrays that are read-only
        problem = read_arrays(rest, torch.from_numpy(arrays))
    return problem if device == "cpu" else moved(problem, device)


def moved(problem: PruningProblem, device: str) -> PruningProblem:
    """The problem on another device; networks are judged there in the same batches."""
    return replace(
        problem,
        network=copy.deepcopy(problem.network).to(device),
        data=problem.data.to(device),
        batch_size=problem.evaluator.validation.batch_size,
    )


def judged(problem: PruningProblem, asked: Question) -> Judged | Refused:
    """Judge one network in a worker."""
    began, evaluator = time.perf_counter(), problem.evaluator
    accuracy, share, values = float("nan"), 1.0, None
    try:
        network = evaluator.built(asked.masks, asked.seed, asked.steps)
        if asked.is_judged:
            accuracy, share = evaluator.raced(network, asked.least)
        if asked.is_measured:
            values = evaluator.values(asked.masks, network)
    except Exception as error:  # goes on where the search is
        return Refused(_sendable(error))
    sent = None if is_fixed(problem.recovery) else pickled(network)
    return Judged(accuracy, values, sent, time.perf_counter() - began, share)


def called(function: bytes, arguments: Sequence[bytes]) -> Any:
    """What a pickled function of pickled arguments gives; a `Refused` where it raised."""
    try:
        run, *given = (pickle.loads(part) for part in (function, *arguments))
        return run(*given)
    except Exception as error:  # goes on where it was asked for
        return Refused(_sendable(error))


def pickled(value: Any) -> bytes:
    """Anything, for another machine; code of the user's own goes along by value.

    Raises:
        SharingError: it cannot be pickled.
    """
    try:
        with by_value(own_modules()):
            return bytes(cloudpickle.dumps(value))
    except Exception as error:  # of pickling anything
        raise SharingError(
            f"{type(value).__name__} cannot be sent to another machine, as something in it cannot "
            f"be pickled: {error}."
        ) from error


def _sendable(error: BaseException) -> BaseException:
    """The error, or its words where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its own pickling raises
        return PruneGymError(f"{type(error).__name__}: {error}")
    return error


# -- code of the user's own ------------------------------------------------------------------------


def own_modules() -> list[ModuleType]:
    """Modules that other machines cannot be expected to have: those of no installed package."""
    installed = _installed_folders()
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name.partition(".")[0] in ("prune_gym", "agents"):
            continue
        if name != "__main__" and not os.path.realpath(file).startswith(installed):
            found.append(module)
    return found


def _installed_folders() -> tuple[str, ...]:
    paths = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    return tuple(
        str(Path(path).resolve()) + os.sep for path in {*paths, os.path.dirname(os.__file__)}
    )


@contextmanager
def by_value(modules: list[ModuleType]) -> Iterator[None]:
    """Pickle what these modules define as code, not as the names of modules."""
    known = cloudpickle.list_registry_pickle_by_value()
    new = [module for module in modules if module.__name__ not in known]
    for module in new:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in new:
            cloudpickle.unregister_pickle_by_value(module)
