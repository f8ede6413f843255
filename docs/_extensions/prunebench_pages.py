"""A page for every task of the benchmark: what it asks, how hard it is, and a picture.

The picture shows networks of random actions, drawn by the environment that the page shows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import pages
from matplotlib.figure import Figure
from sphinx.application import Sphinx

from agents.benchmark.suite import Suite, Task, load_suite
from agents.costs import read_cost_limit

FOLDER = "prunebench"
EPISODES, LIVE_EPISODES = 1500, 20  # of a picture; a table's take microseconds
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
INSIDE, OUTSIDE, GREY = "#0072B2", "#bbbbbb", "#333333"


def which_of(task: Task) -> list[int]:
    """Places, among the problems of a task, of what is judged."""
    return list(dict.fromkeys(part.get("problem", task.training[0]) for part in task.judged))


def random_networks(task: Task, which: int) -> list[tuple[float, float]]:
    """Cost by limit, and accuracy, of networks of random actions."""
    is_table = "Table" in task.environment
    n_envs, rounds = (EPISODES, 1) if is_table else (1, LIVE_EPISODES)
    envs: Any = gym.make_vec(
        task.environment, num_envs=n_envs, **task.problems[which], **task.kwargs
    )
    vector = envs.unwrapped
    limit = vector.cost_limit if is_table else read_cost_limit(vector.envs[0])
    envs.action_space.seed(0)
    found: list[tuple[float, float]] = []
    for episode in range(rounds):
        envs.reset(seed=episode)
        costs, infos = 0.0, {}
        for _ in range(task.steps):
            *_, infos = envs.step(envs.action_space.sample())
            costs = costs + infos["cost"]
        found += zip((costs / limit).tolist(), infos["accuracy"].tolist(), strict=True)
    envs.close()
    return found


def picture(task: Task) -> Figure:
    """Random networks, the limit, random search's median and the optimum or the best known."""
    judged = which_of(task)
    figure = Figure(figsize=(4.2 * len(judged) + 1.4, 3.4), layout="constrained")
    panels = figure.subplots(1, len(judged), squeeze=False, sharey=True)[0]
    for panel, which in zip(panels, judged, strict=True):
        points = random_networks(task, which)
        for inside, colour in ((False, OUTSIDE), (True, INSIDE)):
            own = [point for point in points if (point[0] <= 1.0) == inside]
            panel.plot(*zip(*own, strict=True) if own else ([], []), ".", color=colour, ms=4)
        panel.axvline(1.0, color=GREY, lw=1.2, ls="--")
        for part, reference in zip(task.judged, task.references, strict=bool(task.references)):
            if part.get("problem", task.training[0]) == which:
                panel.axhline(reference.best, color="#D55E00", lw=1.2)
                panel.axhline(reference.random, color="#009E73", lw=1.2, ls=":")
        panel.set_xscale("log")
        ticks = [tick for tick in TICKS if panel.get_xlim()[0] < tick < panel.get_xlim()[1]]
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xticks([], minor=True)
        panel.set_xlabel("cost / limit")
        panel.set_title(task.problems[which].get("table", ""), fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, validation split")
    return figure


def facts_of(task: Task) -> list[tuple[str, str]]:
    """What a task is, and how hard it is: names and values."""
    judged = [task.problems[which] for which in which_of(task)]
    rows = [
        ("environment", f"`{task.environment}`"),
        ("arguments", "; ".join(f"`{_words(problem)}`" for problem in judged)),
        ("further arguments", f"`{_words(task.kwargs)}`" if task.kwargs else "none"),
        ("evaluations of a run", f"{task.evaluations:,}"),
        ("steps of an episode", str(task.steps)),
        ("seeds", f"{task.seeds.start} to {task.seeds.stop - 1}"),
        ("what is scored", "the final policy" if task.by_policy else "the best network judged"),
        ("what may be known", task.known or "observations, rewards and infos"),
        ("random search, median", _numbers([one.random for one in task.references])),
        (
            "optimum" if task.optimum else "best known",
            _numbers([one.best for one in task.references]),
        ),
        ("gap", _numbers([one.best - one.random for one in task.references])),
        (
            "share of random networks within the limits",
            _numbers(_list(task.facts, "feasible_share")),
        ),
        ("networks of the table", ", ".join(f"{n:,}" for n in _list(task.facts, "networks"))),
        ("filters of the groups", "; ".join(map(str, _list(task.facts, "groups")))),
        ("filters that the optimum keeps", "; ".join(_optima(task))),
    ]
    if len(task.problems) > 1:
        training = "; ".join(f"`{_words(task.problems[which])}`" for which in task.training)
        rows.insert(2, ("arguments in training", training))
    return [(name, value) for name, value in rows if value]


def page(task: Task, suite: Suite) -> str:
    """The text of a task's page."""
    about = f"{task.about.strip()}\n\n" if task.about else ""
    kind = "same on every machine" if task.deterministic else "measured on the machine of the run"
    given = {**task.problems[task.training[0]], **task.kwargs}
    lines = "".join(f"    {name}={value!r},\n" for name, value in given.items())
    code = f"import gymnasium as gym\n\nenv = gym.make(\n    {task.environment!r},\n{lines})"
    references = "; dotted: random search's median, full: the optimum or the best known"
    return f"""# {task.name}

{task.title}. Category *{task.category}*, {task.difficulty}; {kind}. A task of {suite.protocol}.

{about}```python
{code}
```

![Random networks: accuracy against cost]({task.name}.png){{.picture}}

*Networks of random actions; those left of the line are within the limits{
        references if task.references else ""
    }.*

{pages.table(("", ""), facts_of(task))}"""


def overview(suite: Suite) -> str:
    """The table of all tasks."""
    rows = [
        (
            f"[{task.name}](generated/{FOLDER}/{task.name}.md)",
            task.title,
            f"{task.evaluations}",
            str(len(task.seeds)),
            _numbers([task.random]) if task.random is not None else "",
            _numbers([task.best]) + (" (exact)" if task.optimum else "")
            if task.best is not None
            else "",
            _numbers(_list(task.facts, "feasible_share")),
        )
        for task in suite.tasks.values()
    ]
    head = ("task", "what", "evaluations", "seeds", "random search", "best", "feasible at random")
    return pages.table(head, rows)


def write_pages(app: Sphinx) -> None:
    """Write the table of tasks and a page for every task."""
    suite = load_suite()
    folder = pages.GENERATED / FOLDER
    pages.write(f"{FOLDER}/tasks.inc", overview(suite))
    for task in suite.tasks.values():
        pages.write(f"{FOLDER}/{task.name}.md", page(task, suite))
        draw(task, folder / f"{task.name}.png")
    pages.drop_others(FOLDER, {f"{name}.md" for name in suite.tasks})


def draw(task: Task, path: Path) -> None:
    """Write the picture of a task."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries; Sphinx's own are counted by its logger
        picture(task).savefig(path, dpi=110)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx reads any."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}


# -- words -----------------------------------------------------------------------------------------


def _list(facts: Mapping[str, Any], key: str) -> list[Any]:
    return list(facts.get(key) or [])


def _numbers(values: list[Any]) -> str:
    words = ["-" if value is None else f"{value:.3g}" for value in values]
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def _words(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _optima(task: Task) -> list[str]:
    return [str(one["counts"]) for one in _list(task.facts, "optima")]
