"""The pictures of a run's report, as PNG; matplotlib is imported only when one is drawn."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.cli.scores import metric_of, rewards_of
from prune_gym.cli.sensitivity import scan_of_rows
from prune_gym.envs import rendering
from prune_gym.problem.costs import Constraint
from prune_gym.problem.saving import read_plan
from prune_gym.problem.sensitivity import WIDTHS, Sensitivity
from prune_gym.searches.run_folder import RunFolder

GOOD, BAD, LIMIT, LINE = "#1f6f8b", "#d9a679", "#b03a2e", "#333333"


def draw_pictures(folder: RunFolder, metrics: dict[str, Any]) -> dict[str, bytes]:
    """The pictures of a finished run, by name.

    Args:
        folder: with rows and plan.
        metrics: of the returned network.
    """
    rows = folder.read_episodes()
    if not rows:  # searches in rounds lie in folders of their own
        return {"layers": _layers_picture(folder, metrics)}
    found = {
        "search": _search_picture(rows, metrics),
        "layers": _layers_picture(folder, metrics),
        "networks": _networks_picture(rows, metrics, _returned(folder, rows)),
    }
    scan = scan_of_rows(
        rows, {row["name"]: row["filters"] for row in read_plan(folder.path)["groups"]}
    )
    return found if scan is None else {**found, "sensitivity": _sensitivity_picture(scan, metrics)}


def _column(rows: list[dict[str, str]], name: str) -> NDArray[np.float64]:
    return np.array([float(row[name]) for row in rows])


def _running_mean(values: NDArray[np.float64], width: int = 50) -> NDArray[np.float64]:
    """Mean of the last ``width`` values at each place (fewer at the start)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _search_picture(rows: list[dict[str, str]], metrics: dict[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    reward = f"reward ({metric_of(metrics)})"
    panels = [("reward", reward), ("cost", "cost"), ("multiplier", "multiplier")]
    if np.isnan(_column(rows, "multiplier")).all():  # a control has none
        panels.pop()
    figure = Figure(figsize=(8.0, 2.1 * len(panels)))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    episodes = np.arange(1, len(rows) + 1)
    for panel, (name, label) in zip(axes, panels, strict=True):
        values = shown = rewards_of(rows) if name == "reward" else _column(rows, name)
        if name != "multiplier":
            panel.plot(episodes, values, ".", color=GOOD, alpha=0.5, markersize=4)
            values = _running_mean(values)
        panel.plot(episodes, values, color=LINE, linewidth=1.4)
        if name == "cost":
            limit = _scalar_limit(metrics)
            panel.axhline(limit, color=LIMIT, linewidth=1.2, label=f"limit {limit:g}")
            panel.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), frameon=False)
        panel.set_ylabel(label)
        finite = np.append(shown[np.isfinite(shown)], 0.0)  # a reward may be below 0
        highest = max(float(finite.max()), _scalar_limit(metrics) if name == "cost" else 0.0)
        panel.set_ylim(1.08 * float(finite.min()), 1.08 * highest or 1.0)
        panel.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("evaluated networks")
    figure.tight_layout()
    return _png(figure)


def _layers_picture(folder: RunFolder, metrics: dict[str, Any]) -> bytes:
    rows: list[rendering.Row] = []
    for row in read_plan(folder.path)["groups"]:
        kept = row["kept"] if isinstance(row["kept"], int) else len(row["kept"])
        rows.append((row["name"], row["filters"], np.arange(row["filters"]) < kept))
    what = "filters" if metrics["structure"] == "filter" else "weights"
    return _png(rendering.draw(rows, f"{what} kept per group"))


def _sensitivity_picture(scan: Sensitivity, metrics: dict[str, Any]) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(8.0, 0.9 + 0.34 * len(scan.names)))
    axes = figure.add_subplot()
    shares = np.geomspace(WIDTHS[0], 1.0, 81)
    lost = np.stack([scan.drop(group, shares) for group in range(len(scan.names))])
    highest = max(float(lost.max()), 1e-9)
    edges = np.geomspace(shares[0], 1.0, 82), np.arange(len(scan.names) + 1) - 0.5
    mesh = axes.pcolormesh(*edges, lost, cmap="YlOrBr", vmin=0.0, vmax=highest)
    axes.set_xscale("log")
    marks = (*WIDTHS, 1.0)
    axes.set_xticks(marks, [f"{share:.3g}" for share in marks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(scan.names)), scan.names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of its filters that the group keeps, all others whole")
    figure.colorbar(mesh, label=f"lost reward ({metric_of(metrics)})")
    figure.tight_layout()
    return _png(figure)


def _returned(folder: RunFolder, rows: list[dict[str, str]]) -> int:
    """Number of the row whose network was returned: of those that keep what the plan keeps."""
    kept = {
        f"kept_{row['name']}": (row["kept"] if isinstance(row["kept"], int) else len(row["kept"]))
        / row["filters"]
        for row in read_plan(folder.path)["groups"]
    }
    distance = sum(np.abs(_column(rows, name) - share) for name, share in kept.items())
    feasible, accuracy = _column(rows, "feasible"), rewards_of(rows)
    return int(np.lexsort((_column(rows, "cost"), -accuracy, np.round(distance, 4), -feasible))[0])


def _networks_picture(rows: list[dict[str, str]], metrics: dict[str, Any], returned: int) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(8.0, 4.2))
    axes = figure.add_subplot()
    cost, accuracy = _column(rows, "cost"), rewards_of(rows)
    good = _column(rows, "feasible") > 0
    axes.plot(cost[~good], accuracy[~good], ".", color=BAD, alpha=0.5, label="over a limit")
    axes.plot(cost[good], accuracy[good], ".", color=GOOD, alpha=0.6, label="within every limit")
    limit = _scalar_limit(metrics)
    axes.axvline(limit, color=LIMIT, linewidth=1.2, label=f"limit {limit:g}")
    axes.plot(cost[returned], accuracy[returned], "*", color=LIMIT, markersize=15, label="returned")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("cost (budget / budget of the unpruned network)")
    metric = metric_of(metrics)
    axes.set_ylabel(f"{'' if metric == 'accuracy' else 'reward of '}{metric} after recovery")
    axes.spines[["top", "right"]].set_visible(False)
    # above the axes, where it covers no network
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    figure.tight_layout()
    return _png(figure)


def _scalar_limit(metrics: dict[str, Any]) -> float:
    return Constraint(tuple(metrics["limits"].values())).limit
