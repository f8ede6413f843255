"""What a row of the benchmark must say: checked field by field against its task.

A row is one run, a JSON object, see `agents.benchmark.rows`; it lies in a file of its own
(``OUT/ALGORITHM/TASK/SEED.json``) or with others in a packed one
(`agents.benchmark.leaderboard_files`). Nothing of it is believed that can be computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

from agents.arguments import shown
from agents.benchmark.suite import Suite, Task
from agents.errors import BenchmarkError

AGAIN = "Rows are written by python -m agents.benchmark, not by hand: run it again."
NEAR = 1e-5  # of what is computed from rounded numbers
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class FinalPolicy:
    """What a run's last policy does, mean over the parts of the task.

    Attributes:
        accuracy: Of the network that its most likely actions lead to.
        test_accuracy: The same on the test split.
        cost: Of that network.
        feasible: Whether it is within the limits.
        violation_rate: Share of episodes of sampled actions whose network breaks a limit.
    """

    accuracy: float
    test_accuracy: float | None
    cost: float
    feasible: bool
    violation_rate: float


@dataclass(frozen=True)
class ScoredRun:
    """One run, as the leaderboard sees it.

    Attributes:
        algorithm: Its name.
        task: Name of the task.
        seed: Of the run.
        evaluations: Networks that it had judged.
        score: 0 = random search, 1 = the optimum or the best known.
        accuracy: Of the best network within the limits, mean over the parts of the task; None where
            a part has none.
        test_accuracy: The same on the test split.
        regret: What it lacks of the optimum's accuracy; None where the optimum is not known.
        curve: Evaluations and accuracy, whenever the best network within the limits got better.
        infeasible_evaluations: Judged networks that broke a limit.
        cumulative_violation: Sum of what their costs were above it.
        policy: The last policy; None where the algorithm has none.
        wall_s: Duration in seconds.
        source: Where it was read.
    """

    algorithm: str
    task: str
    seed: int
    evaluations: int
    score: float
    accuracy: float | None
    test_accuracy: float | None
    regret: float | None
    curve: tuple[tuple[int, float], ...]
    infeasible_evaluations: int
    cumulative_violation: float
    policy: FinalPolicy | None
    wall_s: float
    source: str

    @property
    def violation_rate(self) -> float:
        """Share of the judged networks that broke a limit."""
        return self.infeasible_evaluations / self.evaluations if self.evaluations else 0.0


def check_row(content: Mapping[str, Any], suite: Suite, source: str) -> ScoredRun:
    """Check a row against its task.

    Args:
        content: What is in the file.
        suite: The version of the benchmark.
        source: Name of the file, for errors.

    Raises:
        BenchmarkError: If a field is missing, or not possible (names file, field, value, what is
            allowed, and the cure).
    """
    fields = Fields(content, source)
    _check_protocol(fields, suite)
    algorithm = _algorithm(fields)
    task = _task(fields, suite)
    seed = _seed(fields, task)
    fields.equal("budget", task.evaluations, f"the evaluations of {task.name}")
    spent = fields.whole("evaluations", 0, task.evaluations, f"the budget of {task.name}")
    over = fields.whole("infeasible_evaluations", 0, spent, "those that were spent")
    fields.whole("given_up_episodes", 0, spent - over, "what the others leave")
    violation = fields.number("cumulative_violation", 0.0, math.inf)
    if violation > 0.0 and not over:
        fields.fail("cumulative_violation", "0 where no network broke a limit")
    parts = _parts(fields, suite, task, spent)
    accuracies = [0.0 if part is None else part for part in parts]
    best = _best(fields, parts)
    curve = _curve(fields, task, sum(accuracies) / len(parts), spent)
    for computed in ("score", "regret"):  # relative to references that may have risen since
        fields.optional(computed, -math.inf, math.inf)
    score, regret = task.score(accuracies), regret_of(task, accuracies)
    fields.mapping("versions")
    return ScoredRun(
        algorithm=algorithm,
        task=task.name,
        seed=seed,
        evaluations=spent,
        score=math.nan if score is None else score,
        accuracy=None if best is None else best.number("accuracy", 0.0, 1.0),
        test_accuracy=None if best is None else best.optional("test_accuracy", 0.0, 1.0),
        regret=regret,
        curve=curve,
        infeasible_evaluations=over,
        cumulative_violation=violation,
        policy=_policy(fields),
        wall_s=fields.number("wall_s", 0.0, math.inf),
        source=source,
    )


def regret_of(task: Task, accuracies: Sequence[float]) -> float | None:
    """Return what accuracies of the parts of a task lack of the optimum; None if it is unknown."""
    if not task.optimum or task.best is None:
        return None
    return max(0.0, task.best - sum(accuracies) / len(accuracies))


# -- parts of a row --------------------------------------------------------------------------------


def _check_protocol(fields: Fields, suite: Suite) -> None:
    if fields.get("protocol") != suite.protocol:
        fields.fail("protocol", repr(suite.protocol), "Run the algorithm on that version.")
    if fields.get("suite_hash") != suite.hash:
        cure = "Its tasks are others: run the algorithm again with this version of the package."
        fields.fail("suite_hash", f"{suite.hash!r}, that of {suite.protocol} here", cure)


def _algorithm(fields: Fields) -> str:
    name = fields.get("algorithm")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        allowed = "letters, digits and . _ + -, at most 64"
        fields.fail("algorithm", allowed, "Give it a name: --name.")
    return str(name)


def _task(fields: Fields, suite: Suite) -> Task:
    name, every = fields.get("task"), {**suite.tasks, **suite.tuning_tasks}
    if not isinstance(name, str) or name not in every:
        near = get_close_matches(str(name), every, n=1)
        cure = f"Did you mean {near[0]!r}?" if near else "Leave it out."
        fields.fail("task", f"one of the {len(suite.tasks)} tasks of {suite.protocol}", cure)
    return every[name]


def _seed(fields: Fields, task: Task) -> int:
    seed = fields.get("seed")
    if not _is_whole(seed) or seed not in task.seeds:
        span = f"{task.seeds.start} to {task.seeds.stop - 1}"
        fields.fail("seed", f"one of {task.name}, {span}", "Other seeds are for tuning.")
    return int(seed)


def _parts(fields: Fields, suite: Suite, task: Task, spent: int) -> list[float | None]:
    """Return the accuracies of the parts; None for one without a network within its limits."""
    given = fields.get("parts")
    if not isinstance(given, list) or len(given) != len(task.judged):
        fields.fail("parts", f"a list of {len(task.judged)}, one for each part of {task.name}")
    most = 1 + suite.policy_episodes if task.by_policy else spent
    found: list[float | None] = []
    for index, one in enumerate(given):
        if one is None:
            found.append(None)
            continue
        if not isinstance(one, Mapping):
            fields.fail("parts", f"objects or null; one is {shown(one)}")
        part = Fields(one, fields.source, f"parts[{index}].")
        part.whole("evaluation", 1, most, "those that were judged")
        part.optional("test_accuracy", 0.0, 1.0)
        part.number("cost", -math.inf, math.inf)
        costs = Fields(part.mapping("costs"), fields.source, f"parts[{index}].costs.")
        for name, limit in _limits(task, index).items():
            costs.number(name, 0.0, limit, f"the limit of {task.name}")
        found.append(_accuracy(part, task, index))
    return found


def _accuracy(part: Fields, task: Task, index: int) -> float:
    accuracy = part.number("accuracy", 0.0, 1.0)
    reference = task.references[index] if task.references else None
    if reference is not None and reference.optimum and accuracy > reference.best + NEAR:
        part.fail("accuracy", f"at most {reference.best:g}, the optimum of {task.name}")
    return accuracy


def _limits(task: Task, index: int) -> Mapping[str, float]:
    """Limits of a part by the name that its budget has in a row; none where there are none."""
    judged = task.judged[index]
    problem = task.problems[judged.get("problem", task.training[0])]
    limits = judged.get("limits") or problem.get("budgets")
    if not isinstance(limits, Mapping):
        return {}
    return {name.rpartition(":")[2]: limit for name, limit in limits.items()}  # "module:budget"


def _best(fields: Fields, parts: Sequence[float | None]) -> Fields | None:
    best = fields.part("best")
    known = [accuracy for accuracy in parts if accuracy is not None]
    if (best is None) != (len(known) < len(parts)):
        fields.fail("best", "null where a part has no network within its limits, else an object")
    if best is not None:
        best.near("accuracy", sum(known) / len(known), "the mean of 'parts'")
    return best


def _curve(
    fields: Fields, task: Task, accuracy: float, spent: int
) -> tuple[tuple[int, float], ...]:
    """Return the improvements, after a check that they rise, and end at the best network."""
    points = fields.get("curve")
    if task.by_policy and points != []:
        fields.fail("curve", f"empty: {task.name} scores the final policy")
    allowed = f"a list of [evaluations, accuracy] that rise, at most {spent} evaluations"
    if not isinstance(points, list):
        fields.fail("curve", allowed)
    before = (0, 0.0)
    for point in points:
        fits = isinstance(point, list) and len(point) == 2 and _is_number(point[1])
        fits = fits and _is_whole(point[0]) and before[0] < point[0] <= spent
        if not fits or not before[1] <= point[1] <= 1.0:
            fields.fail("curve", f"{allowed}; {shown(point)} does not follow {list(before)}")
        before = (point[0], float(point[1]))
    if not task.by_policy and abs(before[1] - accuracy) > NEAR:
        fields.fail("curve", f"a list that ends at the accuracy of 'parts', {accuracy:g}")
    return tuple((int(evaluations), float(value)) for evaluations, value in points)


def _policy(fields: Fields) -> FinalPolicy | None:
    policy = fields.part("policy")
    if policy is None:
        return None
    fixed, sampled = policy.part("deterministic"), policy.part("sampled")
    if fixed is None or sampled is None:
        policy.fail("sampled" if fixed else "deterministic", "an object")
    if not isinstance(fixed.get("feasible"), bool):
        fixed.fail("feasible", "true or false")
    return FinalPolicy(
        accuracy=fixed.number("accuracy", 0.0, 1.0),
        test_accuracy=fixed.optional("test_accuracy", 0.0, 1.0),
        cost=fixed.number("cost", -math.inf, math.inf),
        feasible=fixed.get("feasible"),
        violation_rate=sampled.number("violation_rate", 0.0, 1.0),
    )


# -- fields ----------------------------------------------------------------------------------------


class Fields:
    """The fields of an object of a row, each checked when it is read.

    Args:
        content: The object.
        source: Name of the file, for errors.
        inside: Name of the field that it is the value of, with a dot; empty for the row itself.
    """

    def __init__(self, content: Mapping[str, Any], source: str, inside: str = "") -> None:
        self.content, self.source, self.inside = content, source, inside

    def fail(self, key: str, allowed: str, cure: str = AGAIN) -> NoReturn:
        """Raise the error that says what a field must be."""
        value = shown(self.content.get(key))
        words = f"{self.source}: {self.inside}{key} is {value}; it must be {allowed}."
        raise BenchmarkError(f"{words.rstrip('.')}. {cure}".rstrip().replace("?.", "?"))

    def get(self, key: str) -> Any:
        """Return a field, which must be there."""
        if key not in self.content:
            raise BenchmarkError(
                f"{self.source}: {self.inside}{key} is missing; every row has it. {AGAIN}"
            )
        return self.content[key]

    def part(self, key: str) -> Fields | None:
        """Return an object, or None."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.fail(key, "an object or null")
        return Fields(value, self.source, f"{self.inside}{key}.")

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return an object."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            self.fail(key, "an object")
        return value

    def number(self, key: str, least: float, most: float, why: str = "") -> float:
        """Return a finite number in [least, most]."""
        value = self.get(key)
        if not _is_number(value) or not least <= value <= most + NEAR * (most <= 1.0):
            ends = [f"at least {least:g}"] if least > -math.inf else []
            ends += [f"at most {most:g}"] if most < math.inf else []
            words = f" of {' and '.join(ends)}" if ends else " that is finite"
            self.fail(key, f"a number{words}{why and f', {why}'}")
        return float(value)

    def optional(self, key: str, least: float, most: float) -> float | None:
        """Return a number, or None."""
        return None if self.get(key) is None else self.number(key, least, most)

    def whole(self, key: str, least: int, most: int, why: str = "") -> int:
        """Return a whole number in [least, most]."""
        value = self.get(key)
        if not _is_whole(value) or not least <= value <= most:
            words = f"a whole number of at least {least:,} and at most {most:,}"
            self.fail(key, words + (why and f", {why}"))
        return int(value)

    def equal(self, key: str, value: int, why: str) -> None:
        """Check that a field is a number."""
        if self.get(key) != value or isinstance(self.get(key), bool):
            self.fail(key, f"{value:,}, {why}")

    def near(self, key: str, value: float | None, why: str) -> None:
        """Check that a field is what others give, but for rounding."""
        given = self.get(key)
        if value is None and given is None:
            return
        if value is None or not _is_number(given) or abs(given - value) > NEAR * (1 + abs(value)):
            self.fail(key, f"{'null' if value is None else f'{value:.6g}'}, {why}")


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_whole(value: object) -> bool:
    return type(value) is int
