"""What a row of the benchmark must say: checked field by field against its task.

A row is one run, a JSON object, see `agents.benchmark.rows`; it lies in a file of its own
(``OUT/ALGORITHM/TASK/SEED.json``) or with others in a packed one
(`agents.benchmark.leaderboard_files`). Nothing of it is believed that can be computed, and networks
of tables are looked up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from agents.arguments import shown
from agents.benchmark.leaderboard_fields import NEAR, Fields, is_number, is_whole
from agents.benchmark.networks import means_of, table_of
from agents.benchmark.suite import Suite, Task

FORMAT = 2  # of rows; 1 had no networks
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")  # of an algorithm, which is a folder's


@dataclass(frozen=True)
class FinalPolicy:
    """What a run's last policy does, mean over the parts of the task.

    Attributes:
        accuracy: Of the network that its most likely actions lead to.
        test_accuracy: The same on the test split.
        feasible: Whether it is within the limits.
        violation_rate: Share of episodes of sampled actions whose network breaks a limit.
    """

    accuracy: float
    test_accuracy: float | None
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
        curve: Evaluations and the accuracies of the parts (0 where there is no network yet),
            whenever the best network within the limits of one got better.
        infeasible_evaluations: Judged networks that broke a limit.
        given_up_episodes: Evaluations that judged no network.
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
    curve: tuple[tuple[int, tuple[float, ...]], ...]
    infeasible_evaluations: int
    given_up_episodes: int
    cumulative_violation: float
    policy: FinalPolicy | None
    wall_s: float
    source: str

    @property
    def violation_rate(self) -> float:
        """Share of the judged networks that broke a limit."""
        judged = self.evaluations - self.given_up_episodes
        return self.infeasible_evaluations / judged if judged else 0.0


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
    check_protocol(content, suite, source)
    algorithm = _algorithm(fields)
    task = _task(fields, suite)
    seed = _seed(fields, task)
    fields.equal("budget", task.evaluations, f"the evaluations of {task.name}")
    spent = fields.whole("evaluations", 0, task.evaluations, f"the budget of {task.name}")
    over = fields.whole("infeasible_evaluations", 0, spent, "those that were spent")
    given_up = fields.whole("given_up_episodes", 0, spent - over, "what the others leave")
    violation = fields.number("cumulative_violation", 0.0, math.inf)
    if (violation > 0.0) != (over > 0):
        fields.fail("cumulative_violation", "above 0 where networks broke a limit, else 0")
    parts = _parts(fields, suite, task, spent)
    best = _best(fields, parts)
    curve = _curve(fields, suite, task, parts, spent)
    if task.limits.count(None) and len(curve) > spent - given_up - over:
        why = f"as the {len(curve)} networks of the curve broke none"
        fields.fail("infeasible_evaluations", f"at most {spent - given_up - len(curve)}, {why}")
    for computed in ("score", "regret"):  # relative to references that may have risen since
        fields.optional(computed, -math.inf, math.inf)
    accuracies = [0.0 if part is None else part.accuracy for part in parts]
    score, regret = task.score(accuracies), regret_of(task, accuracies)
    _check_origin(fields)
    return ScoredRun(
        algorithm=algorithm,
        task=task.name,
        seed=seed,
        evaluations=spent,
        score=math.nan if score is None else score,
        accuracy=None if best is None else best["accuracy"],
        test_accuracy=None if best is None else best["test_accuracy"],
        regret=regret,
        curve=curve,
        infeasible_evaluations=over,
        given_up_episodes=given_up,
        cumulative_violation=violation,
        policy=_policy(fields, suite, task),
        wall_s=fields.number("wall_s", 0.0, math.inf),
        source=source,
    )


def check_protocol(content: Mapping[str, Any], suite: Suite, source: str) -> None:
    """Check that a row, or a packed file of rows, is of a suite, and of the format of today.

    Raises:
        BenchmarkError: It is not.
    """
    fields = Fields(content, source)
    if fields.get("protocol") != suite.protocol:
        fields.fail("protocol", repr(suite.protocol), "Run the algorithm on that version.")
    if fields.get("suite_hash") != suite.hash:
        cure = "Its tasks are others: run the algorithm again with this version of the package."
        fields.fail("suite_hash", f"{suite.hash!r}, that of {suite.protocol} here", cure)
    fields.equal("format", FORMAT, "that of rows of this version of the package")


def regret_of(task: Task, accuracies: Sequence[float]) -> float | None:
    """Return what accuracies of the parts of a task lack of the optimum; None if it is unknown."""
    if not task.optimum or task.best is None:
        return None
    return max(0.0, task.best - sum(accuracies) / len(accuracies))


# -- parts of a row --------------------------------------------------------------------------------


def _algorithm(fields: Fields) -> str:
    name = fields.get("algorithm")
    if not isinstance(name, str) or not NAME.fullmatch(name):
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
    if not is_whole(seed) or seed not in task.seeds:
        span = f"{task.seeds.start} to {task.seeds.stop - 1}"
        fields.fail("seed", f"one of {task.name}, {span}", "Other seeds are for tuning.")
    return int(seed)


@dataclass(frozen=True)
class _Network:
    accuracy: float
    test_accuracy: float | None
    excess: float | None  # of costs over limits, the largest; None = they are not named
    evaluation: int = 0


def _network(fields: Fields, suite: Suite, task: Task, index: int) -> _Network:
    """Return a network of a part, after a check against the table that holds it, if one does."""
    limits, table = _limits(task, index), table_of(suite, _problem(task, index))
    accuracy = fields.number("accuracy", 0.0, 1.0)
    test_accuracy = fields.optional("test_accuracy", 0.0, 1.0)
    costs = fields.object("costs")
    found = {name: costs.number(name, 0.0, math.inf) for name in {**limits, **costs.content}}
    counts = fields.get("counts")
    if table is not None:
        try:
            entry = table.entry(table.number([] if counts is None else counts))
        except (TypeError, ValueError):  # of a network that the table does not hold
            allowed = f"the kept filters of each of the {len(table.levels)} groups, levels of"
            fields.fail("counts", f"{allowed} table {_problem(task, index)['table']!r}")
        fields.near("accuracy", entry.accuracy, "that of the table")
        fields.near("test_accuracy", entry.test_accuracy, "that of the table")
        for name in found:
            costs.near(name, entry.costs.get(name), "that of the table")
        accuracy, test_accuracy = entry.accuracy, entry.test_accuracy
    elif counts is not None and not (isinstance(counts, list) and all(map(is_whole, counts))):
        fields.fail("counts", "the kept filters of each group, or null")
    excess = max((found[name] - limit for name, limit in limits.items()), default=None)
    return _Network(accuracy, test_accuracy, excess)


def _parts(fields: Fields, suite: Suite, task: Task, spent: int) -> list[_Network | None]:
    """Return the networks of the parts; None for one without a network within its limits."""
    given = fields.items("parts", len(task.judged), f"one for each part of {task.name}")
    most = 1 + suite.policy_episodes if task.by_policy else spent
    found: list[_Network | None] = []
    for index, part in enumerate(given):
        if part is None:
            found.append(None)
            continue
        evaluation = part.whole("evaluation", 1, most, "those that were judged")
        network = _network(part, suite, task, index)
        if network.excess is not None and network.excess > NEAR:
            limits = ", ".join(f"{name} {one:g}" for name, one in _limits(task, index).items())
            part.fail("costs", f"within {limits}, the limits of {task.name}")
        reference = task.references[index] if task.references else None
        if reference and reference.optimum and network.accuracy > reference.best + NEAR:
            part.fail("accuracy", f"at most {reference.best:g}, the optimum of {task.name}")
        found.append(replace(network, evaluation=evaluation))
    return found


def _problem(task: Task, index: int) -> Mapping[str, Any]:
    """Return what a part of a task prunes."""
    which: int = task.judged[index].get("problem", task.training[0])
    return task.problems[which]


def _limits(task: Task, index: int) -> Mapping[str, float]:
    """Limits of a part by the name that its budget has in a row; none where there are none."""
    limits = task.judged[index].get("limits") or _problem(task, index).get("budgets")
    if not isinstance(limits, Mapping):
        return {}
    return {name.rpartition(":")[2]: limit for name, limit in limits.items()}  # "module:budget"


def _best(fields: Fields, parts: Sequence[_Network | None]) -> dict[str, Any] | None:
    """Return the means over the parts, after a check that the row says so, too."""
    best = fields.part("best")
    known = [part for part in parts if part is not None]
    if (best is None) != (len(known) < len(parts)):
        fields.fail("best", "null where a part has no network within its limits, else an object")
    if best is None:
        return None
    means = means_of([(part.accuracy, part.test_accuracy) for part in known])
    for name, value in means.items():
        best.near(name, value, "the mean of 'parts'")
    best.equal("evaluation", max(part.evaluation for part in known), "the last one of 'parts'")
    return means


def _curve(
    fields: Fields, suite: Suite, task: Task, parts: Sequence[_Network | None], spent: int
) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Return the improvements, after a check that they rise, and end at the best networks."""
    points = fields.get("curve")
    if task.by_policy:
        if points != []:
            fields.fail("curve", f"empty: {task.name} scores the final policy")
        return ()
    allowed = (
        f"a list of [evaluations, {', '.join(['accuracy'] * len(parts))}] that rise, at most "
        f"{spent} evaluations"
    )
    if not isinstance(points, list):
        fields.fail("curve", allowed)
    tables = [table_of(suite, _problem(task, index)) for index in range(len(parts))]
    before = [0, *(0.0 for _ in parts)]
    for point in points:
        if not _follows(point, before, spent, tables):
            fields.fail("curve", f"{allowed}; {shown(point)} does not follow {before}")
        before = point
    found = tuple((point[0], tuple(map(float, point[1:]))) for point in points)
    for index, part in enumerate(parts):
        accuracy, evaluation = (part.accuracy, part.evaluation) if part else (0.0, 0)
        first = next((at for at, values in found if values[index] > accuracy - NEAR), 0)
        if abs(before[1 + index] - accuracy) > NEAR or (accuracy > 0.0 and first != evaluation):
            where = f"accuracy {accuracy:g} at evaluation {evaluation}"
            fields.fail("curve", f"a list that ends at parts[{index}], {where}")
    return found


def _follows(point: Any, before: Sequence[Any], spent: int, tables: Sequence[Any]) -> bool:
    """Whether a point of a curve can come after the one before."""
    if not isinstance(point, list) or len(point) != len(before) or not is_whole(point[0]):
        return False
    rises: bool = before[0] < point[0] <= spent
    for value, last, table in zip(point[1:], before[1:], tables, strict=True):
        rises = rises and is_number(value) and last <= value <= 1.0
        if rises and table is not None:  # a share of its images
            n = value * table.n_examples[0]
            rises = abs(n - round(n)) < 0.01
    return rises


def _policy(fields: Fields, suite: Suite, task: Task) -> FinalPolicy | None:
    policy = fields.part("policy")
    if policy is None:
        if task.by_policy:
            fields.fail("policy", f"an object: {task.name} scores the final policy")
        return None
    fixed, sampled = policy.object("deterministic"), policy.object("sampled")
    n, networks = len(task.judged), []
    for index, one in enumerate(fixed.items("parts", n, f"one for each part of {task.name}")):
        if one is None:
            fixed.fail("parts", "objects")
        networks.append(_network(one, suite, task, index))
    means = means_of([(one.accuracy, one.test_accuracy) for one in networks])
    for name, value in means.items():
        fixed.near(name, value, "the mean of its 'parts'")
    feasible = fixed.get("feasible")
    excess = max((one.excess for one in networks if one.excess is not None), default=None)
    fits = isinstance(feasible, bool)
    if fits and excess is not None:  # within rounding both are right
        fits = excess <= NEAR if feasible else excess >= -NEAR
    if not fits:
        fixed.fail("feasible", "true or false, as the costs of its 'parts' are within the limits")
    episodes = n * suite.policy_episodes
    sampled.equal("episodes", episodes, f"{suite.policy_episodes} for each part")
    for name in means:
        sampled.optional(name, 0.0, 1.0)
    over = sampled.number("violation_rate", 0.0, 1.0)
    if abs(over * episodes - round(over * episodes)) > 0.01:
        sampled.fail("violation_rate", f"a share of {episodes} episodes")
    return FinalPolicy(
        accuracy=fixed.number("accuracy", 0.0, 1.0),
        test_accuracy=means["test_accuracy"],
        feasible=feasible,
        violation_rate=over,
    )


def _check_origin(fields: Fields) -> None:
    """Check what a row says of where it comes from."""
    for key, name in (("versions", "python"), ("code", "train")):
        origin = fields.object(key)
        if not isinstance(origin.get(name), str):
            origin.fail(name, "a text")
