"""The tables of `peers.py`, and what they say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from decision import estimate
from peer_tasks import SEARCHES, TASKS, methods
from result_rows import ResultRows, Row

SPLITS = ("validation", "test")
FEW = 5  # with fewer seeds a bootstrap interval is no more than their range
SHARES = ("macs", "params", "latency")


def show(table: ResultRows) -> None:
    """Print a table per problem, the best before fine-tuning first."""
    for problem in dict.fromkeys(row["problem"] for row in table.of["rows"]):
        rows = [row for row in table.of["rows"] if row["problem"] == problem]
        tuned = [row for row in table.of["tuned"] if row["problem"] == problem]
        print("\n".join(lines_of(problem, rows, tuned)))


def lines_of(problem: str, rows: list[Row], tuned: list[Row]) -> Iterator[str]:
    """The table of one problem.

    Methods are ordered, and the best of them are told, by validation; the test split chooses none.
    """
    limits = TASKS[problem].budgets.items()
    words = ", ".join(f"{getattr(name, 'name', name)} {limit:.3g}" for name, limit in limits)
    yield f"\n### {problem}: at most {words}\n"
    epochs = sorted({row["epochs"] for row in tuned})
    heads = [f"{n} epoch{'s' * (n > 1)}, {split}" for n in epochs for split in ("val", "test")]
    last = ["MACs", "parameters", "latency", "networks judged", "seconds"]
    cells = ["method", "seeds", "val", "test", *heads, *last]
    yield "| " + " | ".join(cells) + " |"
    yield "|" + " --- |" * len(cells)
    by_method = grouped(rows)
    means = {method: mean_validation(own) for method, own in by_method.items()}
    most = max((len(own) for n in epochs for own in grouped(tuned, n).values()), default=0)
    for method in sorted(means, key=lambda name: -means[name]):
        own = by_method[method]
        trained = [grouped(tuned, n).get(method, []) for n in epochs]
        yield "| " + " | ".join(cells_of(method, own, trained, most)) + " |"
    yield from ("", *verdicts(by_method, tuned), *missing(problem, by_method, tuned))


def cells_of(method: str, own: list[Row], trained: list[list[Row]], most: int) -> list[str]:
    """The cells of a method: its networks, and their fine-tunings by number of epochs."""
    within = [row for row in own if row["validation"] is not None]
    seconds = f"{np.median([row['seconds'] for row in own]):.0f}"
    if not within:
        dashes = ["-"] * (2 * len(trained) + len(SHARES) + 2)
        return [method, str(len(own)), "nothing within the limit", *dashes, seconds]
    seeds = str(len(own)) if within == own else f"{len(within)} of {len(own)}"
    line = [method, seeds, *(spread([r[k] for r in within]) for k in SPLITS)]
    for rows in trained:
        few = f"; {len(rows)} seed{'s' * (len(rows) > 1)}" if len(rows) < most else ""
        line += [spread([r[k] for r in rows]) + few if rows else "-" for k in SPLITS]
    line += [mean_of([r[k] for r in within]) for k in SHARES]
    return [*line, f"{np.median([row['evaluations'] for row in own]):.0f}", seconds]


def grouped(rows: list[Row], epochs: int | None = None) -> dict[str, list[Row]]:
    """Rows by method; of so many epochs where they are said."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if epochs is None or row["epochs"] == epochs:
            found.setdefault(row["method"], []).append(row)
    return found


def mean_validation(rows: list[Row]) -> float:
    """Mean validation accuracy; nothing within the limit counts as 0."""
    return float(np.mean([row["validation"] or 0.0 for row in rows]))


def spread(values: list[float]) -> str:
    """One value, the mean and range of a few, the estimate and 95 % interval of more."""
    if len(values) == 1 or len(values) >= FEW:
        return estimate(values)
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def mean_of(shares: list[float | None]) -> str:
    """The mean of those that were measured."""
    measured = [share for share in shares if share is not None]
    return f"{np.mean(measured):.3f}" if measured else "-"


def verdicts(by_method: dict[str, list[Row]], tuned: list[Row]) -> Iterator[str]:
    """What the rows say."""
    yield from leaders("Before fine-tuning", by_method)
    for n in sorted({row["epochs"] for row in tuned}):
        of_epochs = grouped(tuned, n)
        when = f"After {n} epoch{'s' * (n > 1)}"
        yield from leaders(when, of_epochs)
        ours = [name for name in of_epochs if name in SEARCHES]
        if ours and "dense" in of_epochs:
            own = max(ours, key=lambda name: mean_validation(of_epochs[name]))
            gap = 100.0 * (mean_test(of_epochs["dense"]) - mean_test(of_epochs[own]))
            yield (
                f"{when} `{own}` is {abs(gap):.1f} points {'below' if gap >= 0 else 'above'} the "
                "dense network, trained as long, on the test split."
            )
    slow = [
        name
        for name, own in by_method.items()
        for row in own
        if name != "dense" and row["validation"] is not None and (row["latency"] or 0.0) > 0.95
    ]
    if slow:
        yield f"Not faster than the dense network: {', '.join(dict.fromkeys(slow))}."


def mean_test(rows: list[Row]) -> float:
    """Mean test accuracy; nothing within the limit counts as 0."""
    return float(np.mean([row.get("test") or 0.0 for row in rows]))


def leaders(when: str, by_method: dict[str, list[Row]]) -> Iterator[str]:
    """The best search and the best of the others by validation, and their gap on the test split."""
    ours = [name for name in by_method if name in SEARCHES]
    others = [name for name in by_method if name not in (*SEARCHES, "dense", "narrowest")]
    if ours and others:
        means = {name: mean_validation(rows) for name, rows in by_method.items()}
        own, other = max(ours, key=means.__getitem__), max(others, key=means.__getitem__)
        gap = 100.0 * (mean_test(by_method[own]) - mean_test(by_method[other]))
        yield (
            f"{when} the best of {len(ours)} searches, `{own}`, is {abs(gap):.1f} points "
            f"{'ahead of' if gap >= 0 else 'behind'} the best of {len(others)} others, "
            f"`{other}`, on the test split."
        )


def missing(problem: str, by_method: dict[str, list[Row]], tuned: list[Row]) -> Iterator[str]:
    """Which methods have no row."""
    known = [name for name in methods() if TASKS[problem].takes(name)]
    if none := [name for name in known if name not in by_method]:
        yield f"Without a row: {', '.join(none)}."
    for n in sorted({row["epochs"] for row in tuned}):
        if none := [name for name in by_method if name not in grouped(tuned, n)]:
            yield f"Not fine-tuned for {n} epoch{'s' * (n > 1)}: {', '.join(none)}."
