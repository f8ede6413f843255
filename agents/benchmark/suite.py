"""The suite: tasks as plain data, and the score that makes their accuracies comparable.

A suite is a JSON file; ``prunebench-v1`` comes with the package, others are read from their path.
What defines its tasks is hashed, so that rows of another version are known; what is measured (the
reference values of the score, and facts for people) is not.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

from agents.arguments import shown
from agents.errors import BenchmarkError
from agents.files import check_folder, read_json, user_path

DATA = Path(__file__).parent / "data"
DEFAULT_SUITE = "prunebench-v1"
LOWEST_SCORE = -1.0  # of a run that finds nothing, say
# what is measured or said of a task, but does not define it; tables are looked at when one is used
_NOT_DEFINING = (
    *("title", "about", "known", "costs_known", "references", "facts"),
    *("entries", "tables", "table_loader"),
)


@dataclass(frozen=True)
class Reference:
    """What scores of a part of a task are relative to.

    Attributes:
        random: Median accuracy that random search finds: score 0.
        best: The optimum's accuracy, or the best one known: score 1.
        optimum: Whether ``best`` is the exact optimum.
    """

    random: float
    best: float
    optimum: bool

    def score(self, accuracy: float) -> float:
        """Normalise an accuracy; `LOWEST_SCORE` at least.

        >>> Reference(random=0.7, best=0.9, optimum=True).score(0.8)
        0.5
        """
        gap = max(self.best - self.random, 1e-9)
        return max(LOWEST_SCORE, round((accuracy - self.random) / gap, 9))


@dataclass(frozen=True)
class Task:
    """A task of a suite.

    Attributes:
        name: By which it is chosen.
        title: In words.
        category: What it asks for; tasks of one category differ in difficulty.
        difficulty: ``"easy"``, ``"medium"`` or ``"hard"``.
        about: More words.
        environment: Id with module, as ``gymnasium.make`` takes it.
        kwargs: Arguments of the environment.
        problems: What is pruned within which limits, as arguments of the environment; most tasks
            have one.
        training: Which of ``problems`` a training sees.
        judged: Parts of the score: which of ``problems``, within which ``limits`` by budget (None =
            those of the environment), after which ``options`` of a reset.
        by_policy: Whether networks that the final policy decides are scored, instead of those
            that were judged in training.
        steps: Of an episode.
        evaluations: Networks that a run may judge.
        seeds: Of the runs.
        known: What an algorithm may know besides observations, rewards and infos.
        costs_known: Whether the costs of numbers of kept filters are in that.
        deterministic: Whether equal decisions are judged equally, on every machine.
        tuning: Whether it is for tuning; such a task is in no leaderboard.
        references: One for each part of ``judged``; empty where they were not measured yet.
        facts: For people: share of feasible networks and the like.
    """

    name: str
    title: str
    category: str
    difficulty: str
    environment: str
    problems: tuple[Mapping[str, Any], ...]
    steps: int
    evaluations: int
    seeds: range
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    training: tuple[int, ...] = (0,)
    judged: tuple[Mapping[str, Any], ...] = ({},)
    by_policy: bool = False
    known: str = ""
    costs_known: bool = False
    deterministic: bool = True
    tuning: bool = False
    references: tuple[Reference, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def limits(self) -> list[Mapping[str, float] | None]:
        """Limits by budget of the parts of the score."""
        return [part.get("limits") for part in self.judged]

    @property
    def random(self) -> float | None:
        """Mean accuracy of random search over the parts; None where it was not measured."""
        return _mean([one.random for one in self.references])

    @property
    def best(self) -> float | None:
        """Mean accuracy of the optimum, or of the best known, over the parts."""
        return _mean([one.best for one in self.references])

    @property
    def optimum(self) -> bool:
        """Whether `best` is exact."""
        return bool(self.references) and all(one.optimum for one in self.references)

    def score(self, accuracies: Sequence[float]) -> float | None:
        """Normalised score of the accuracies of all parts; None without references.

        Args:
            accuracies: Of the best network within the limits, for each part; 0.0 where there is
                none.
        """
        if not self.references:
            return None
        pairs = zip(self.references, accuracies, strict=True)
        return _mean([one.score(accuracy) for one, accuracy in pairs])


@dataclass(frozen=True)
class Suite:
    """Tasks, and what they have in common.

    Attributes:
        protocol: Name and version of the rules, such as ``"prunebench-v1"``.
        tasks: Judged ones, by name.
        tuning_tasks: For choosing values of an algorithm, by name.
        tables: What stands for the content of each table that the tasks use, by name.
        entries: Algorithms that come with the suite, ``"module:function"`` by name.
        discrete_wrappers: Wrappers that give environments discrete actions, ``"module:Class"``; the
            first that fits is taken.
        policy_episodes: Episodes by which a sampled policy is judged.
        hash: Of all that defines the tasks, 16 digits.
        table_loader: Gives a table by name, ``"module:function"``; "" = rows are not looked up.
    """

    protocol: str
    tasks: Mapping[str, Task]
    tuning_tasks: Mapping[str, Task]
    tables: Mapping[str, str]
    entries: Mapping[str, str]
    discrete_wrappers: tuple[str, ...]
    policy_episodes: int
    hash: str
    table_loader: str = ""

    def __repr__(self) -> str:
        """Short."""
        return f"Suite({self.protocol}, {len(self.tasks)} tasks, {self.hash})"

    def how_many(self, tasks: Collection[str], category: str | None = None) -> str:
        """Say how many tasks there are, ``"6 of 9 tasks"`` where it is not all of a category.

        Args:
            tasks: Their names.
            category: Whose they are; None, or the name of none: of all.
        """
        own = [one for one in self.tasks.values() if one.category == category]
        n, every = len(tasks), len(own or self.tasks)
        return f"{n}{'' if n == every else f' of {every}'} task{'' if every == 1 else 's'}"

    def choose(self, tasks: str | Iterable[str] | None = None) -> list[Task]:
        """Tasks by name, category or pattern, ``table-*``; all judged ones if left out.

        Raises:
            BenchmarkError: No task answers to a name; it says which there are.
        """
        if tasks is None:
            return list(self.tasks.values())
        every = {**self.tasks, **self.tuning_tasks}
        chosen: dict[str, Task] = {}
        for name in self._names(tasks):
            found = [
                task
                for key, task in every.items()
                if fnmatchcase(key, name) or (task.category == name and not task.tuning)
            ]
            if not found:
                near = difflib.get_close_matches(name, every, n=1, cutoff=0.6)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise BenchmarkError(
                    f"tasks: {shown(name)} is no task of {self.protocol}.{hint} Those are "
                    f"{', '.join(every)}; categories and patterns such as 'table-*' name several."
                )
            chosen.update({task.name: task for task in found})
        return list(chosen.values())

    def _names(self, tasks: str | Iterable[str]) -> list[str]:
        """Names, categories and patterns; commas part them, but for those of a category."""
        given = [tasks] if isinstance(tasks, str) else tasks
        names = list(given) if isinstance(given, Iterable) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise BenchmarkError(
                f"tasks is {shown(tasks)}; it must be names of tasks, categories or patterns such "
                "as 'table-*'; leave it out for all of them."
            )
        categories = {task.category for task in self.tasks.values()}
        parted = [[one] if one.strip() in categories else one.split(",") for one in names]
        return [name.strip() for own in parted for name in own]


def load_suite(suite: str | Path | Suite = DEFAULT_SUITE) -> Suite:
    """Read a suite.

    Args:
        suite: Name of one that comes with the package, or a JSON file.

    Raises:
        BenchmarkError: There is none of that name, or the file is no suite.

    >>> suite = load_suite("prunebench-v1")
    >>> suite.tasks["table-small-digits-10"].evaluations
    512
    """
    if isinstance(suite, Suite):
        return suite
    if not isinstance(suite, str | os.PathLike):
        raise BenchmarkError(f"suite is {shown(suite)}; it must be a name, or a JSON file.")
    path = user_path(suite)
    if path.suffix != ".json":
        path = DATA / f"{suite}.json"
        if not path.is_file():
            names = ", ".join(sorted(one.stem for one in DATA.glob("prunebench-*.json")))
            raise BenchmarkError(
                f"suite is {shown(str(suite))}; it must be one of {names}, or a JSON file."
            )
    content = read_json(path, BenchmarkError)
    try:
        return _suite(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BenchmarkError):
            raise
        words = f"{type(error).__name__} {error}"
        raise BenchmarkError(f"{path} is no suite of tasks ({words}).") from error


def own_folder(out: str | os.PathLike[str]) -> Path:
    """A folder of the user's to write to.

    Raises:
        BenchmarkError: It is the package's own.
        FileError: It cannot be written.
    """
    if not isinstance(out, str | os.PathLike):
        raise BenchmarkError(f"out is {shown(out)}; it must be a folder.")
    folder = user_path(out)
    if DATA.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise BenchmarkError(
            f"out={str(folder)!r} holds what is published, which is never overwritten; choose "
            "another folder."
        )
    check_folder(folder)
    return folder


def hash_of(content: Mapping[str, Any]) -> str:
    """16 digits that stand for what defines the tasks of a suite's JSON."""
    bare = {key: value for key, value in content.items() if key not in _NOT_DEFINING}
    for kind in ("tasks", "tuning_tasks"):
        bare[kind] = [
            {key: value for key, value in task.items() if key not in _NOT_DEFINING}
            for task in content[kind]
        ]
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:16]


def _suite(content: Mapping[str, Any]) -> Suite:
    return Suite(
        protocol=str(content["protocol"]),
        tasks={one["name"]: _task(one, False) for one in content["tasks"]},
        tuning_tasks={one["name"]: _task(one, True) for one in content["tuning_tasks"]},
        tables=dict(content["tables"]),
        entries=dict(content["entries"]),
        discrete_wrappers=tuple(content["discrete_wrappers"]),
        policy_episodes=int(content["policy_episodes"]),
        hash=hash_of(content),
        table_loader=str(content.get("table_loader", "")),
    )


def _task(content: Mapping[str, Any], tuning: bool) -> Task:
    given = dict(content)
    seeds = given.pop("seeds")
    task = Task(
        **{
            **given,
            "problems": tuple(given["problems"]),
            "training": tuple(given.get("training", (0,))),
            "judged": tuple(given.get("judged", ({},))),
            "references": tuple(Reference(**one) for one in given.get("references", ())),
            "seeds": range(seeds["first"], seeds["first"] + seeds["count"]),
            "tuning": tuning,
        }
    )
    if task.references and len(task.references) != len(task.judged):
        raise BenchmarkError(f"task {task.name!r} has not one reference for each judged part.")
    return task


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
