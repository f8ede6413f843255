"""What a search has seen: one row per evaluated network, the best feasible one, and the front.

The front holds the networks that no other one beats in accuracy and in every cost at once, masks
included: whatever the limits, the most accurate network within them is one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.budgets import BUDGETS, as_budget
from prune_gym.errors import InvalidValueError, NothingFeasibleError
from prune_gym.problem.costs import Constraint, CostModel
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Masks
from prune_gym.utils.arrays import read_arrays
from prune_gym.utils.files import replacing
from prune_gym.utils.records import in_one_line, is_visible


@dataclass(frozen=True, eq=False)
class Trial:
    """One evaluated network.

    Attributes:
        accuracy: validation accuracy after recovery.
        cost: the scalar cost.
        costs: cost per budget.
        feasible: whether every limit was met.
        kept: fraction of filters kept per group.
        judged: share of the validation examples that it was judged on; below 1.0 where it was
            dropped from a race.
    """

    accuracy: float
    cost: float
    costs: dict[str, float]
    feasible: bool
    kept: tuple[float, ...]
    judged: float = 1.0

    @property
    def is_partial(self) -> bool:
        """Whether it was dropped from a race: its accuracy is an estimate, from a part."""
        return self.judged < 1.0

    @classmethod
    def of(cls, outcome: Outcome) -> Trial:
        """The row of an outcome."""
        kept = tuple(float(share) for share in outcome.kept)
        return cls(
            outcome.accuracy, outcome.cost, outcome.costs, outcome.feasible, kept, outcome.judged
        )


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network of the front.

    Attributes:
        number: of its evaluation, from 1.
        accuracy: validation accuracy after recovery.
        costs: by budget name.
        bits: its keep masks, packed, uint8.
        sizes: filters per group.
    """

    number: int
    accuracy: float
    costs: dict[str, float]
    bits: NDArray[np.uint8]
    sizes: tuple[int, ...]

    @property
    def masks(self) -> Masks:
        """Its keep masks, (n_filters,) bool each."""
        every = np.unpackbits(self.bits, count=sum(self.sizes)).astype(np.bool_)
        return tuple(np.split(every, np.cumsum(self.sizes)[:-1]))

    def distance(self, limits: Mapping[str, float]) -> float:
        """The worst of costs / limits; up to 1.0 it is within all of them."""
        return Constraint(tuple(limits.values()), is_relative=True).cost(self._among(limits))

    def is_within(self, limits: Mapping[str, float]) -> bool:
        """Whether every cost is within its limit (no tolerance)."""
        return Constraint(tuple(limits.values())).is_met(self._among(limits))

    def _among(self, names: Iterable[str]) -> NDArray[np.float64]:
        return np.array([self.costs[name] for name in names])


class Front:
    """The candidates that no other one is at least as good as in everything.

    Of equally good ones the oldest stays. With one cost there are at most as many as there are
    accuracies.
    """

    def __init__(self, candidates: Iterable[Candidate] = ()) -> None:
        self._candidates = list(candidates)

    def __iter__(self) -> Iterator[Candidate]:
        """From the lowest accuracy to the highest."""
        return iter(sorted(self._candidates, key=lambda one: (one.accuracy, one.number)))

    def __len__(self) -> int:
        return len(self._candidates)

    def __repr__(self) -> str:
        """How many networks, and of which costs."""
        return f"Front({len(self)} networks by accuracy and {', '.join(self.names)})"

    @property
    def newest(self) -> int:
        """Number of the latest evaluation that changed the front; 0 = none did."""
        return max((one.number for one in self._candidates), default=0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the costs that are known of each candidate."""
        return tuple(self._candidates[0].costs) if self._candidates else ()

    def add(self, number: int, accuracy: float, costs: dict[str, float], masks: Masks) -> bool:
        """Take a network up unless one of the front is as good; returns whether it was."""
        merits = np.array([accuracy, *(-cost for cost in costs.values())])
        others = np.array([[c.accuracy, *(-x for x in c.costs.values())] for c in self._candidates])
        others = others.reshape(-1, len(merits))
        if (others >= merits).all(axis=1).any():
            return False
        unbeaten = np.flatnonzero((others > merits).any(axis=1))
        bits = np.packbits(np.concatenate(masks))
        sizes = tuple(len(mask) for mask in masks)
        self._candidates = [self._candidates[index] for index in unbeaten]
        self._candidates.append(Candidate(number, accuracy, dict(costs), bits, sizes))
        return True

    def best_within(self, limits: Mapping[str, float]) -> Candidate:
        """The first of `within`."""
        return self.within(limits)[0]

    def within(self, limits: Mapping[str, float]) -> list[Candidate]:
        """The candidates within other limits, one at least: from the most accurate on.

        Of equally accurate ones the one furthest within comes first.

        Args:
            limits: by budget name, as fractions of the unpruned network's budget.

        Raises:
            ValueError: no limits, or a budget whose cost is not known (names those that are).
            NothingFeasibleError: names the nearest candidate.
        """
        if not self._candidates:
            raise NothingFeasibleError("nothing was evaluated yet. Search first.")
        unknown = [name for name in limits if name not in self.names]
        if unknown or not limits:
            raise InvalidValueError(
                f"limits={dict(limits)!r}: expected limits by budget, of those whose cost was kept "
                f"of each network: {', '.join(self.names)}."
            )
        within = [one for one in self._candidates if one.is_within(limits)]
        if within:
            return sorted(within, key=lambda c: (-c.accuracy, c.distance(limits), c.number))
        nearest = min(self._candidates, key=lambda one: one.distance(limits))
        raise NothingFeasibleError(
            f"no evaluated network is within {_words(limits)}. The nearest is network "
            f"{nearest.number}: reward {nearest.accuracy:.4f}, "
            f"{_words({name: nearest.costs[name] for name in limits})}. Raise the limit, or search "
            "for it anew."
        )

    def with_costs(self, further: Callable[[Masks], dict[str, float]]) -> Front:
        """The same candidates, with more costs."""
        return Front(replace(c, costs={**c.costs, **further(c.masks)}) for c in self._candidates)

    def until(self, number: int) -> Front:
        """The candidates of the evaluations up to ``number``."""
        return Front(one for one in self._candidates if one.number <= number)

    def save(self, path: Path) -> None:
        """Write it to a file (``.npz``), atomically."""
        kept = self._candidates
        with replacing(path) as partial_path, partial_path.open("wb") as file:
            np.savez(
                file,
                names=np.array(self.names, dtype=np.str_),
                sizes=np.array(kept[0].sizes if kept else (), dtype=np.int64),
                numbers=np.array([one.number for one in kept], dtype=np.int64),
                accuracies=np.array([one.accuracy for one in kept]),
                costs=np.array([list(one.costs.values()) for one in kept]),
                bits=np.array([one.bits for one in kept], dtype=np.uint8),
            )

    @classmethod
    def load(cls, path: Path, kind: type[Exception], depth: bool = False) -> Front:
        """Read what `save` wrote; a damaged file raises ``kind``.

        Args:
            path: of the file.
            kind: of error.
            depth: whether networks may keep nothing of a filter group.
        """
        try:
            held = read_arrays(path, _SAVED, kind, _MOST_BYTES)
            _check_arrays(**held)
            if not depth:
                _check_kept(held["sizes"], held["bits"])
            names, sizes = held["names"].tolist(), tuple(held["sizes"].tolist())
            rows = zip(
                held["numbers"].tolist(),
                held["accuracies"].tolist(),
                held["costs"].tolist(),
                held["bits"],
                strict=True,
            )
            return cls(
                Candidate(number, accuracy, dict(zip(names, costs, strict=True)), bits, sizes)
                for number, accuracy, costs, bits in rows
            )
        except (ValueError, TypeError) as error:
            if isinstance(error, kind):
                raise
            raise kind(
                f"{path} is damaged: it holds no front of networks ({in_one_line(error)}). Put it "
                "back as it was; without it the search goes on, and pick has nothing to look at."
            ) from error

    def check_costs(self, problem: PruningProblem) -> None:
        """Raise unless the masks fit a problem's groups, and cost what is said of them.

        Raises:
            ValueError: names the network; only what is counted can be told from masks.
        """
        counted = {budget.name: budget for budget in (*map(as_budget, BUDGETS), *problem.budgets)}
        known = [counted[name] for name in self.names if name in counted]
        known = [budget for budget in known if budget.counted is not None]
        model = problem.cost_model.of_budgets(known)
        for one in self:
            if one.sizes != tuple(problem.sizes.tolist()):
                raise InvalidValueError(
                    "it is of another network: its masks do not fit the groups of this one"
                )
            problem.check_masks(one.masks)
            for name, cost in _costs_by_name(model, one.masks).items():
                if not np.isclose(cost, one.costs[name], rtol=1e-6, atol=0.0):
                    raise InvalidValueError(
                        f"network {one.number} is said to have {name} {one.costs[name]:.6g}, and "
                        f"by its masks it has {cost:.6g}"
                    )


_SAVED = ("names", "sizes", "numbers", "accuracies", "costs", "bits")
_MOST_BYTES = 2**29


def _check_arrays(
    names: NDArray[Any],
    sizes: NDArray[Any],
    numbers: NDArray[Any],
    accuracies: NDArray[Any],
    costs: NDArray[Any],
    bits: NDArray[Any],
) -> None:
    """Raise ValueError unless these are the arrays of a front."""
    n, filters = len(numbers.ravel()), sum(int(size) for size in sizes.ravel())
    shapes = {
        "names": (names, "U", (len(names.ravel()),)),
        "sizes": (sizes, "i", (len(sizes.ravel()),)),
        "numbers": (numbers, "i", (n,)),
        "accuracies": (accuracies, "f", (n,)),
        "costs": (costs, "f", (n, len(names.ravel())) if n else (0,)),
        "bits": (bits, "u", (n, -(-filters // 8)) if n else (0,)),
    }
    for name, (held, kind, shape) in shapes.items():
        if held.dtype.kind != kind or held.shape != shape:
            raise InvalidValueError(f"{name} is {held.shape} {held.dtype}, and must be {shape}")
    if (numbers < 1).any() or len(set(numbers.tolist())) < n:
        raise InvalidValueError("numbers must be 1 or above, each once")
    if not np.isfinite(accuracies).all() or not np.isfinite(costs).all() or (costs < 0.0).any():
        raise InvalidValueError("accuracies and costs must be finite numbers, costs 0 or above")
    if (sizes < 1).any() or (n and not (names.size and sizes.size)):
        raise InvalidValueError("there must be names, and sizes of 1 or above")
    if len(set(names.tolist())) < len(names) or not all(map(is_visible, names.tolist())):
        raise InvalidValueError("names must be different, without control characters")


def _check_kept(sizes: NDArray[Any], bits: NDArray[Any]) -> None:
    """Raise ValueError where masks keep nothing of a group."""
    for row in bits.reshape(len(bits), -1):
        kept = np.unpackbits(row)[: int(sizes.sum())]
        if not np.logical_or.reduceat(kept, np.cumsum(sizes) - sizes).all():
            raise InvalidValueError("bits keep nothing of a filter group")


def further_costs(problem: PruningProblem) -> Callable[[Masks], dict[str, float]] | None:
    """Gives the costs of masks by every registered budget that counts and is not limited.

    With them the front can answer for limits on these budgets as well. None where there are none:
    single weights set to zero make no network smaller.
    """
    budgets = tuple(
        budget
        for budget in map(as_budget, BUDGETS)
        if budget.counted is not None and budget.name not in problem.names
    )
    if not budgets or problem.structure == "weight":
        return None
    return partial(_costs_by_name, problem.cost_model.of_budgets(budgets))


def measured_later(
    problem: PruningProblem, names: Iterable[str]
) -> Callable[[Masks], dict[str, float]] | None:
    """Gives the costs of masks by those of ``names`` that may be measured after a search.

    These are registered budgets that are no count, but give equal networks equal numbers. None
    where no name is of such a one.
    """
    asked = [as_budget(name) for name in names if name in BUDGETS]
    budgets = tuple(budget for budget in asked if budget.deterministic and budget.counted is None)
    return partial(_costs_by_name, problem.cost_model.of_budgets(budgets)) if budgets else None


def _costs_by_name(model: CostModel, masks: Masks) -> dict[str, float]:
    return dict(zip(model.names, model.costs(masks).tolist(), strict=True))


def _words(costs: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {cost:.4g}" for name, cost in costs.items())


@dataclass(eq=False)
class Archive:
    """Everything evaluated, in order, the best feasible network, and the front.

    Attributes:
        trials: one row per evaluation.
        best: the best feasible row, or None; by accuracy, then by lower cost, then by age.
        best_masks: its keep masks.
        on_add: called with every new row, its masks and outcome, and whether it is the new best.
        further: gives more costs of masks, by name, for the front; see `further_costs`.
        front: what no other evaluated network beats, with masks.
    """

    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    best_masks: Masks | None = None
    on_add: Callable[[Trial, Masks, Outcome, bool], None] | None = None
    further: Callable[[Masks], dict[str, float]] | None = None
    front: Front = field(default_factory=Front)

    def put(self, trial: Trial) -> bool:
        """Add a row; returns whether it is the new best feasible one."""
        self.trials.append(trial)
        better = self.best is None or _rank(trial) > _rank(self.best)
        is_new_best = trial.feasible and not trial.is_partial and better
        if is_new_best:
            self.best = trial
        return is_new_best

    def add(self, masks: Masks, outcome: Outcome) -> None:
        """Record an outcome and the masks it came from."""
        trial = Trial.of(outcome)
        improved = self.put(trial)
        if not trial.is_partial:
            costs = trial.costs if self.further is None else {**trial.costs, **self.further(masks)}
            self.front.add(len(self.trials), trial.accuracy, costs, masks)
        if improved:
            self.best_masks = tuple(mask.copy() for mask in masks)
        if self.on_add is not None:
            self.on_add(trial, masks, outcome, improved)

    def best_within(self, limits: Mapping[str, float]) -> Candidate:
        """The most accurate evaluated network within other limits; see `Front.best_within`."""
        return self.front.best_within(limits)

    def feasible_masks(self) -> Masks:
        """Masks of the best feasible network.

        Raises:
            NothingFeasibleError: says how close the search came.
        """
        if self.best_masks is None:
            nearest = min((trial.cost for trial in self.trials), default=float("nan"))
            raise NothingFeasibleError(
                f"none of {len(self.trials)} evaluated networks meets every limit (lowest cost "
                f"{nearest:.4g}). Search longer, or raise the limit."
            )
        return self.best_masks


def _rank(trial: Trial) -> tuple[float, float]:
    return trial.accuracy, -trial.cost
