"""What a comparison looks like: table, files, plots. matplotlib is imported when one is drawn."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from agents.comparison.statistics import Comparison, Estimate, Row
from agents.files import make_folder, replacing, write_json

FEW = 3  # seeds below which an interval says little
# Okabe and Ito's colours, which the colour-blind can tell apart, and markers for black and white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
MARKERS = "osD^vPXp*"
GREY = "#333333"
PER_LINE = 3  # panels side by side
LABELS = {
    "best_feasible": "best feasible return ({infeasible_score:g} if there is none)",
    "final": "return of the final policy ({infeasible_score:g} if it is not feasible)",
    "given": "score",
}


def table(comparison: Comparison) -> str:
    """Return the rows as a table in Markdown, and what to bear in mind with it."""
    rows = comparison.rows
    columns = {
        "task": [row.task for row in rows],
        "algorithm": [row.algorithm for row in rows],
        "seeds": [str(row.seeds) for row in rows],
        "IQM (95 % interval)": [interval(row.score, _few(row.seeds)) for row in rows],
        "median": [number(row.median) for row in rows],
    }
    if len(comparison.scores) < 2:
        del columns["task"]
    if comparison.runs:
        runs = [row.seeds * _n_tasks(comparison, row) for row in rows]
        columns["feasible runs"] = [
            f"{row.feasible_runs} of {n}" for row, n in zip(rows, runs, strict=True)
        ]
        columns["final violation rate"] = [number(row.violation_rate) for row in rows]
        columns["episodes to feasible"] = [_wait(row.episodes_to_feasible) for row in rows]
        columns["mean wall time"] = [duration(row.wall_s) for row in rows]
    parts = [grid(columns)]
    if any(_few(row.seeds) for row in rows):
        parts.append(f"\\* fewer than {FEW} seeds: the interval says nothing about another seed.")
    missing = _missing(comparison)
    if missing:
        parts.append(
            f"Not among all tasks, for want of equally many seeds on each: {', '.join(missing)}."
        )
    parts.append(_wins(comparison))
    return "\n\n".join(part for part in parts if part)


def save(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write table (Markdown, CSV), everything as JSON, and the plots.

    Args:
        comparison: What `agents.compare.compare` found.
        folder: Where to; made if it is not there.

    Returns:
        The files: ``comparison.md``, ``comparison.csv``, ``comparison.json``, ``intervals.png``,
        and ``return_cost.png`` if there are runs.

    Raises:
        FileError: If the folder cannot be made, or takes no file.
    """
    folder = make_folder(folder)
    files = [folder / f"comparison.{kind}" for kind in ("md", "csv", "json")]
    with replacing(files[0]) as partial:
        partial.write_text(table(comparison) + "\n", encoding="utf-8")
    with replacing(files[1]) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        lines = [_flat(row) for row in comparison.rows]
        writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    record = {
        "settings": dict(comparison.settings),
        "rows": [_flat(row) for row in comparison.rows],
        "improvements": [
            {**asdict(one), "probability": one.probability._asdict()}
            for one in comparison.improvements
        ],
        "scores": comparison.scores,
        "runs": [
            {"task": task, **asdict(run), "folder": run.folder.as_posix()}
            for run, task in zip(comparison.runs, comparison.tasks, strict=True)
        ],
    }
    write_json(files[2], record)  # an infinite wait, never feasible, becomes null
    plots = {"intervals.png": plot_intervals}
    if comparison.runs:
        plots["return_cost.png"] = plot_return_cost
    for name, plot in plots.items():
        with replacing(folder / name) as partial:
            plot(comparison).savefig(partial, dpi=150, format="png")
        files.append(folder / name)
    return files


# -- text --------------------------------------------------------------------------------------


def grid(columns: dict[str, list[str]]) -> str:
    """Return columns, by their names, as a table in Markdown."""
    widths = [max(map(len, [name, *cells])) for name, cells in columns.items()]
    lines = [list(columns), ["-" * width for width in widths], *zip(*columns.values(), strict=True)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _wins(comparison: Comparison) -> str:
    """Say how surely the best algorithm of every task is better than the others."""
    parts = []
    for task in dict.fromkeys(row.task for row in comparison.rows):
        seeds = {row.algorithm: row.seeds for row in comparison.rows if row.task == task}
        best = next(iter(seeds))
        lines = []
        for one in comparison.improvements:
            if one.task == task and one.algorithm == best:
                few = _few(seeds[best], seeds[one.other])
                chance = interval(one.probability, few, digits=2)
                lines.append(f"- {one.other}: with probability {chance}")
        if lines:
            where = f"On {task}, a" if len(comparison.scores) > 1 else "A"
            parts.append("\n".join([f"{where} run of {best} scores higher than one of", *lines]))
    return "\n\n".join(parts)


def _missing(comparison: Comparison) -> list[str]:
    if len(comparison.scores) < 2:
        return []
    listed = {row.algorithm for row in comparison.rows if row.task not in comparison.scores}
    return sorted({row.algorithm for row in comparison.rows} - listed)


def _n_tasks(comparison: Comparison, row: Row) -> int:
    return 1 if row.task in comparison.scores else len(comparison.scores)


def _few(*seeds: int) -> bool:
    return min(seeds) < FEW


def interval(estimate: Estimate, few: bool = False, digits: int | None = None) -> str:
    """Return a number with its interval; a star marks one of few seeds."""
    value, low, high = (number(one, digits) for one in estimate)
    return f"{value} [{low}, {high}]{' *' if few else ''}"


def number(value: float | None, digits: int | None = None) -> str:
    """Return a number with few digits; a hyphen where there is none."""
    if value is None:
        return "-"
    if digits is None:
        digits = 3 if abs(value) < 10.0 else 1
    return f"{value:.{digits}f}"


def _wait(episodes: float | None) -> str:
    if episodes is None:
        return "-"
    return "never" if math.isinf(episodes) else f"{episodes:g}"


def duration(seconds: float | None) -> str:
    """Return a duration in a unit that suits it; a hyphen where there is none."""
    if seconds is None:
        return "-"
    if seconds < 120.0:
        return f"{seconds:.3g} s"
    return f"{seconds / 60.0:.1f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"


def _flat(row: Row) -> dict[str, Any]:
    """Return a row with a column for every number."""
    fields = {key: value for key, value in asdict(row).items() if key != "score"}
    iqm = {"iqm": row.score.value, "iqm_low": row.score.low, "iqm_high": row.score.high}
    return {**{key: fields.pop(key) for key in ("task", "algorithm", "seeds")}, **iqm, **fields}


# -- plots -------------------------------------------------------------------------------------


def _style(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return colour and marker of every algorithm, the same in all plots."""
    names = sorted({row.algorithm for row in comparison.rows})
    return {
        name: (COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
        for index, name in enumerate(names)
    }


def panels_of(
    tasks: Iterable[str], width: float, height: float, **kwargs: Any
) -> tuple[Any, dict[str, Any]]:
    """Return a figure and one panel for every task, at most PER_LINE side by side."""
    from matplotlib.figure import Figure

    names = list(tasks)
    n_columns = math.ceil(len(names) / math.ceil(len(names) / PER_LINE))
    n_lines = math.ceil(len(names) / n_columns)
    size = (2.0 + width * n_columns, 0.7 + height * n_lines)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(n_lines, n_columns, squeeze=False, **kwargs).ravel()
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    for panel, name in zip(panels, names, strict=False):
        panel.set_title(name, fontsize=10)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, dict(zip(names, panels, strict=False))


def plot_intervals(comparison: Comparison) -> Any:
    """Draw the interquartile mean of every algorithm, its interval, and the scores of its runs.

    Returns:
        A ``matplotlib.figure.Figure`` with one panel per task.
    """
    style = _style(comparison)
    means: dict[str, list[float]] = {name: [] for name in style}
    for row in comparison.rows:
        means[row.algorithm].append(row.score.value)
    order = sorted(style, key=lambda name: float(np.mean(means[name])))  # the best on top
    figure, panels = panels_of(comparison.scores, 3.6, 0.8 + 0.4 * len(order), sharey=True)
    for task, panel in panels.items():
        for row in (row for row in comparison.rows if row.task == task):
            height, (colour, _) = order.index(row.algorithm), style[row.algorithm]
            low, high = row.score.low, row.score.high
            panel.barh(height, high - low, 0.55, low, color=colour, alpha=0.35)
            panel.plot([row.score.value] * 2, [height - 0.28, height + 0.28], color=colour, lw=2.5)
            scores = comparison.scores[task][row.algorithm]
            panel.plot(scores, [height] * len(scores), "o", ms=3.5, color="#333333", alpha=0.6)
        panel.use_sticky_edges = False
        panel.margins(x=0.05)
        panel.set_yticks(range(len(order)), order)
        panel.set_ylim(-0.6, len(order) - 0.4)
        panel.grid(axis="x", color="#dddddd", linewidth=0.8)
    settings = comparison.settings
    label = LABELS[settings["score"]].format(**settings)
    key = "line: interquartile mean, bar: 95 % interval, dots: runs"
    figure.supxlabel(f"{label}\n{key}", fontsize=9)
    return figure


def plot_return_cost(comparison: Comparison) -> Any:
    """Draw the final policies of all runs, return against cost, and the limit.

    Returns:
        A ``matplotlib.figure.Figure`` with one panel per task.
    """
    from matplotlib.lines import Line2D

    style = _style(comparison)
    figure, panels = panels_of(comparison.scores, 3.8, 3.3)
    for task, panel in panels.items():
        runs = [r for r, t in zip(comparison.runs, comparison.tasks, strict=True) if t == task]
        for run in runs:
            colour, marker = style[run.algorithm]
            face = colour if run.violation_rate == 0.0 else "none"
            panel.plot(
                run.cost_mean, run.return_mean, marker, color=colour, mfc=face, ms=7, alpha=0.8
            )
        limit = runs[0].cost_limit
        panel.axvline(limit, color=GREY, linestyle="--", linewidth=1.2)
        panel.margins(0.08)
        left, right = panel.get_xlim()
        panel.axvspan(limit, right, color=GREY, alpha=0.1, linewidth=0)
        panel.set_xlim(left, right)
        panel.grid(color="#dddddd", linewidth=0.8)
    figure.supxlabel("mean episodic cost of the final policy", fontsize=10)
    figure.supylabel("mean return of the final policy", fontsize=10)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", label=name)
        for name, (colour, marker) in style.items()
    ]
    hollow = "hollow: over the limit\nin some episode"
    handles += [
        Line2D([], [], color=GREY, marker="o", mfc="none", linestyle="none", label=hollow),
        Line2D([], [], color=GREY, linestyle="--", label="limit, grey: over it"),
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=9, frameon=False)
    return figure
