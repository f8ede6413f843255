"""Figures of a leaderboard; matplotlib is imported when one is drawn.

Each function returns a ``matplotlib.figure.Figure``, or None where there is nothing to draw. At
most `HIGHLIGHTED` algorithms have a colour, those that were added first, then the best; the others
are grey.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from agents.benchmark.leaderboard import CURVE_POINTS, Leaderboard, Ranking
from agents.comparison.report import COLOURS, GREY, MARKERS, panels_of

HIGHLIGHTED = 7
OTHERS = "#bbbbbb"
THRESHOLDS = np.linspace(-1.0, 1.0, 101)
SCORE = "normalised score (0: random search, 1: optimum or best known)"


def draw_ranks(board: Leaderboard) -> Any:
    """Interquartile means with their intervals, and the ranks that the tests leave possible."""
    from matplotlib.figure import Figure

    ranking = main_ranking(board)
    if ranking is None:
        return None
    style = _styles(board, ranking)
    names = ranking.ranked[::-1]  # the best on top
    standings = {one.algorithm: one for one in ranking.standings}
    figure = Figure(figsize=(9.0, 1.4 + 0.3 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for height, name in enumerate(names):
        one, colour = standings[name], style[name][0]
        if one.score is not None:
            left.plot([one.score.low, one.score.high], [height] * 2, color=colour, lw=6, alpha=0.4)
            left.plot(one.score.value, height, "|", color=colour, ms=13, mew=2.5)
        if one.ranks is not None:
            right.plot(one.ranks, [height] * 2, "-", color=colour, lw=3, solid_capstyle="round")
            right.plot(one.ranks, [height] * 2, "o", color=colour, ms=6)
    for value in (0.0, 1.0):
        left.axvline(value, color=GREY, lw=0.9, ls=":")
    left.set_yticks(range(len(names)), names)
    left.set_ylim(-0.6, len(names) - 0.4)
    left.set_xlabel(f"interquartile mean and 95 % interval\n{SCORE}")
    right.set_xlabel("ranks that the tests leave possible\n(all at once, 95 %)")
    right.set_xlim(0.5, len(names) + 0.5)
    step = 1 + len(names) // 12
    right.set_xticks(range(1, len(names) + 1, step))
    for panel in (left, right):
        _clean(panel)
    figure.suptitle(_title(board, ranking), fontsize=11)
    return figure


def draw_profiles(board: Leaderboard) -> Any:
    """Share of runs that score at least a threshold, with 95 % bands."""
    return _lines(
        board,
        lambda ranking: board.profiles(ranking, THRESHOLDS),
        THRESHOLDS,
        ("score", "share of runs that score at least that"),
    )


def draw_curves(board: Leaderboard) -> Any:
    """Interquartile mean of scores while evaluations are spent, with 95 % bands."""
    figure = _lines(
        board,
        board.curves,
        100.0 * CURVE_POINTS,
        ("evaluations spent, % of what the task allows", "interquartile mean of scores"),
    )
    if figure is not None:
        for panel in figure.axes:
            panel.set_xscale("log")
            panel.set_xticks([1, 10, 100], ["1", "10", "100"])
    return figure


def draw_improvement(board: Leaderboard) -> Any:
    """How probably a run of the row scores higher than a run of the column; bold: told apart."""
    from matplotlib.figure import Figure

    ranking = main_ranking(board)
    if ranking is None or len(ranking.ranked) < 2:
        return None
    names = ranking.ranked
    place = {name: index for index, name in enumerate(names)}
    chances = np.full((len(names), len(names)), np.nan)
    differs = np.zeros_like(chances, dtype=np.bool_)
    for pair in ranking.pairs:
        row, column = place[pair.algorithm], place[pair.other]
        chances[row, column] = pair.probability.value
        chances[column, row] = 1.0 - pair.probability.value
        differs[row, column] = differs[column, row] = pair.differs
    size = 2.6 + 0.42 * len(names)
    figure = Figure(figsize=(size + 0.4, size + 0.6), layout="constrained")
    panel = figure.subplots()
    panel.imshow(chances, cmap="PuOr", vmin=-0.15, vmax=1.15)
    for row, column in np.argwhere(~np.isnan(chances)):
        value, bold = chances[row, column], differs[row, column]
        panel.text(
            column,
            row,
            f"{100 * value:.0f}",
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold" if bold else "normal",
            color="white" if abs(value - 0.5) > 0.35 else "black" if bold else "#666666",
        )
    panel.set_xticks(range(len(names)), names, rotation=90)
    panel.set_yticks(range(len(names)), names)
    label = "% of pairs of runs in which the row\nscores higher than the column"
    panel.set_xlabel(f"{label}\nbold: told apart (Holm-corrected)", fontsize=9)
    figure.suptitle(_title(board, ranking), fontsize=11)
    return figure


def draw_violations(board: Leaderboard) -> Any:
    """Violations in training, and of the final policy."""
    from matplotlib.figure import Figure

    ranking = main_ranking(board)
    if ranking is None:
        return None
    style = _styles(board, ranking)
    names = ranking.ranked[::-1]
    standings = {one.algorithm: one for one in ranking.standings}
    figure = Figure(figsize=(8.0, 1.6 + 0.34 * len(names)), layout="constrained")
    panel = figure.subplots()
    for height, name in enumerate(names):
        one, colour = standings[name], style[name][0]
        shares = ((0.18, one.violation_rate, 0.45), (-0.18, one.final_violation_rate, 1.0))
        for place, share, alpha in shares:
            if share:
                panel.barh(height + place, share, 0.34, color=colour, alpha=alpha)
            else:
                words = "no policy" if share is None else "0"
                panel.text(0.01, height + place, words, va="center", fontsize=8, color=GREY)
    panel.set_yticks(range(len(names)), names)
    panel.set_xlim(0.0, 1.0)
    panel.set_xlabel(
        "share of networks that break a limit\n"
        "above, pale: judged in training; below, full: of the final policy, sampled"
    )
    _clean(panel)
    figure.suptitle(_title(board, ranking), fontsize=11)
    return figure


FIGURES: dict[str, Callable[[Leaderboard], Any]] = {
    "ranks": draw_ranks,
    "profiles": draw_profiles,
    "curves": draw_curves,
    "improvement": draw_improvement,
    "violations": draw_violations,
}


# -- parts -----------------------------------------------------------------------------------------


def main_ranking(board: Leaderboard) -> Ranking | None:
    """Return the ranking of the most tasks that has the added ones; None where nobody is ranked.

    One of several algorithms goes before one of a single one.
    """

    def key(one: Ranking) -> tuple[int, bool, int, int]:
        added = len({*board.added} & {*one.ranked})
        return added, len(one.ranked) > 1, len(one.tasks), len(one.ranked)

    return max((one for one in board.rankings if one.ranked), key=key, default=None)


def _lines(
    board: Leaderboard,
    values: Callable[[Ranking], dict[str, Any]],
    points: Any,
    labels: tuple[str, str],
) -> Any:
    """A panel for the main ranking and one for every category, a line for every algorithm."""
    main = main_ranking(board)
    if main is None:
        return None
    wide = [one for one in board.rankings if one.name not in board.suite.tasks and one.ranked]
    chosen = [main, *(one for one in wide if one is not main)]
    found = {one.name: values(one) for one in chosen}
    found = {name: lines for name, lines in found.items() if lines}
    style = _styles(board, main)
    figure, panels = panels_of(found, 3.2, 2.5, sharex=True, sharey=True)
    for name, panel in panels.items():
        for algorithm in reversed(found[name]):
            middle, low, high = found[name][algorithm]
            colour, marker = style.get(algorithm, (OTHERS, ""))
            width = 0.9 if colour == OTHERS else 1.6
            panel.plot(
                points, middle, color=colour, lw=width, marker=marker, ms=4, markevery=(0.05, 0.2)
            )
            if colour != OTHERS:
                panel.fill_between(points, low, high, color=colour, alpha=0.15, lw=0)
        panel.grid(color="#dddddd", linewidth=0.8)
    figure.supxlabel(labels[0], fontsize=10)
    figure.supylabel(labels[1], fontsize=10)
    names = {name for lines in found.values() for name in lines}
    figure.legend(
        handles=_keys(style, names), loc="outside right center", fontsize=9, frameon=False
    )
    figure.suptitle(board.suite.protocol, fontsize=11)
    return figure


def _styles(board: Leaderboard, ranking: Ranking) -> dict[str, tuple[str, str]]:
    """Return colour and marker of every ranked algorithm."""
    first = [name for name in ranking.ranked if name in board.added]
    order = [*first, *(name for name in ranking.ranked if name not in first)]
    chosen = order[:HIGHLIGHTED]
    style = {name: (OTHERS, "") for name in ranking.ranked}
    for index, name in enumerate(name for name in ranking.ranked if name in chosen):
        style[name] = (COLOURS[index], MARKERS[index])
    return style


def _keys(style: dict[str, tuple[str, str]], names: set[str]) -> list[Any]:
    """Return what the legend shows: every coloured algorithm, and how many of ``names`` are not."""
    from matplotlib.lines import Line2D

    keys = [
        Line2D([], [], color=colour, marker=marker, ms=4, lw=1.6, label=name)
        for name, (colour, marker) in style.items()
        if colour != OTHERS
    ]
    n_others = len(names) - len(keys)
    if n_others:
        label = f"{n_others} other{'' if n_others == 1 else 's'}"
        keys.append(Line2D([], [], color=OTHERS, lw=0.9, label=label))
    return keys


def _title(board: Leaderboard, ranking: Ranking) -> str:
    if ranking.name in board.suite.tasks:
        return f"{board.suite.protocol}: {ranking.name}"
    many = board.suite.how_many(ranking.tasks, ranking.name)
    return f"{board.suite.protocol}: {ranking.name} ({many})"


def _clean(panel: Any) -> None:
    panel.set_axisbelow(True)
    panel.grid(axis="x", color="#dddddd", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
