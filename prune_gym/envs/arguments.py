"""Keywords of the environments. Those of the problem are described once, by `make_problem`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from torch import nn

from prune_gym.datasets import Dataset
from prune_gym.errors import InvalidTypeError, InvalidValueError
from prune_gym.problem.make import shared_problem
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.sharing import SharedProblem
from prune_gym.utils.threads import pin_worker

F = TypeVar("F", bound=Callable[..., Any])


class ProblemArguments(TypedDict, total=False):
    """What `prune_gym.make_problem` takes, for type checkers and editors."""

    network: str | nn.Module
    dataset: str | Dataset
    budgets: Mapping[Any, float | str] | None
    criterion: str | Callable[..., Any]
    recovery: str | Callable[..., None]
    recovery_steps: int
    structure: str
    round_to: int | str
    depth: bool
    evaluation_samples: int | None
    precision: str
    batch_size: int | None
    device: str
    weights: str | Path | None
    train: Any
    validation: Any
    test: Any
    metric: Any
    loss: Any
    output: Any
    fine_tune: str | Callable[..., Any] | None
    collate: Callable[[list[Any]], Any] | None
    ignore: Collection[str]
    unpruned_values: Mapping[str, float] | None
    seed: int


class EnvArguments(ProblemArguments, total=False):
    """What every environment takes; `PruneEnv` describes it."""

    problem: PruningProblem | SharedProblem | None
    cost_mode: str
    max_ratio: float
    limit_range: Sequence[float] | None
    history: bool
    render_mode: str | None


def shows_keywords_of(source: Callable[..., Any]) -> Callable[[F], F]:
    """A decorator: where a function passes ``**`` on to ``source``, show what that takes.

    `help`, `inspect.signature` and what is built on them then name every keyword and its default.

    >>> def build(n_layers=3, width=8): ...
    >>> @shows_keywords_of(build)
    ... def train(steps, **arguments): ...
    >>> inspect.signature(train)
    <Signature (steps, *, n_layers=3, width=8)>
    """

    def show(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {parameter.name for parameter in own}
        taken = inspect.signature(source).parameters.values()
        passed_on = [p.replace(kind=p.KEYWORD_ONLY) for p in taken if p.name not in names]
        signature = signature.replace(parameters=[*own, *passed_on])
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return show


def resolve_problem(
    problem: PruningProblem | SharedProblem | None, arguments: ProblemArguments
) -> PruningProblem:
    """The problem given (or shared by another process), or the one that the arguments describe."""
    pin_worker()
    if problem is None:
        return shared_problem(**arguments)
    if isinstance(problem, SharedProblem):
        problem = problem.open()
    if not isinstance(problem, PruningProblem):
        raise InvalidTypeError(
            f"problem={problem!r}: expected a PruningProblem; build one with make_problem()."
        )
    if arguments:
        raise InvalidValueError(
            f"problem is given, so {', '.join(arguments)} cannot be; say it to make_problem()."
        )
    return problem
