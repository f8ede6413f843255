"""The report of a run: one HTML page that needs nothing else, with its pictures inside."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.budgets import amount
from prune_gym.envs import rendering
from prune_gym.problem.costs import Constraint
from prune_gym.problem.saving import read_plan
from prune_gym.searches.fine_tuning import words_of
from prune_gym.searches.remeasure import spread_in_words
from prune_gym.searches.run_folder import RunFolder, SearchConfig

GOOD, BAD, LIMIT, LINE = "#1f6f8b", "#d9a679", "#b03a2e", "#333333"

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.3rem .9rem;text-align:right;
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left;padding-left:0}
img{max-width:100%;height:auto}code{background:#f2f2f2;padding:.1rem .3rem}
.verdict{font-size:1.1rem;padding:.6rem 1rem;border-left:5px solid #1f6f8b;background:#eef5f7}
.note{color:#555;font-size:.9rem}
"""


def write_report(folder: RunFolder, config: SearchConfig) -> Path:
    """Write ``report.html`` of a finished run, and its pictures as PNG files beside it.

    Args:
        folder: a run with ``metrics.json``.
        config: its configuration.

    Returns:
        Path of the page.
    """
    metrics = folder.read_json("metrics.json")
    rows = folder.read_episodes()
    pictures = {
        "search": _search_picture(rows, metrics),
        "layers": _layers_picture(folder, metrics),
        "networks": _networks_picture(rows, metrics, _returned(folder, rows)),
    }
    (folder.path / "pictures").mkdir(exist_ok=True)
    for name, data in pictures.items():
        (folder.path / "pictures" / f"{name}.png").write_bytes(data)
    page = folder.path / "report.html"
    page.write_text(_page(folder, config, metrics, pictures), encoding="utf-8")
    return page


def table_rows(metrics: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Before/after rows: what, unpruned, pruned, ratio."""
    dense, pruned, latency = metrics["dense"], metrics["pruned"], metrics["latency_ms"]
    scores = metrics["accuracy"]
    rows = [
        (label, f"{dense[key]:,.0f}", f"{pruned[key]:,.0f}", f"{pruned[key] / dense[key]:.1%}")
        for key, label in (("params", "parameters"), ("macs", "MACs"), ("size_bytes", "bytes"))
    ]
    batch, device = metrics["latency_batch"], metrics.get("latency_device", "cpu")
    device = "one CPU thread" if device == "cpu" else device
    rows.append(
        (
            f"latency, ms (batch {batch}, {device})",
            f"{latency['dense']:.2f}",
            f"{latency['pruned']:.2f}",
            f"{latency['pruned'] / latency['dense']:.1%}",
        )
    )
    dense_validation = _percent(scores["dense_validation"])
    for key, label in (
        ("raw_validation", "validation accuracy, as cut"),
        ("recovered_validation", "validation accuracy, recovered"),
        ("finetuned_validation", "validation accuracy, fine-tuned"),
    ):
        rows.append((label, dense_validation, _percent(scores[key]), ""))
    if "finetuned_validation_float32" in scores:  # the rows above are in another precision
        dense_exact = _percent(scores["dense_validation_float32"])
        exact = _percent(scores["finetuned_validation_float32"])
        rows.append(("validation accuracy, fine-tuned, in float32", dense_exact, exact, ""))
    rows.append(
        (
            "test accuracy, fine-tuned",
            _percent(scores["dense_test"]),
            _percent(scores["finetuned_test"]),
            "",
        )
    )
    return rows


def budget_in_words(metrics: dict[str, Any], name: str) -> str:
    """What a cost and its limit are in the budget's unit, and how far measurements spread."""
    dense, unit = metrics["unpruned_values"][name], metrics["units"][name]
    value, limit = (metrics[kind][name] * dense for kind in ("costs", "limits"))
    measured = metrics["measured"].get(name)
    spread = "" if measured is None else f"; cost {spread_in_words(measured)}"
    return f" ({amount(value, unit)} of at most {amount(limit, unit)}{spread})"


def _percent(share: float | None) -> str:
    return "no test split" if share is None else f"{100 * share:.2f} %"


def _page(
    folder: RunFolder, config: SearchConfig, metrics: dict[str, Any], pictures: dict[str, bytes]
) -> str:
    remembered = metrics.get("remembered_evaluations", 0)
    known = f"{remembered:,} known from before, " if remembered else ""
    kept = " (hard: each one was kept there)" if metrics.get("hard") else ""
    body = [
        f"<h1>{html.escape(str(metrics['algo']))} on {html.escape(config.env)}</h1>",
        f"<p class=note>{html.escape(str(config.problem['network']))} on "
        f"{html.escape(str(config.problem['dataset']))}, "
        f"seed {metrics['seed']}, {metrics['evaluations']:,} networks evaluated, "
        f"{metrics['feasible_evaluations']:,} of them within every limit{kept}, {known}"
        f"{metrics['wall_s']:.0f} s</p>",
        f"<p class=verdict>{_verdict(metrics)}</p>",
        "<h2>Before and after</h2>",
        _table(["", "unpruned", "pruned", "ratio"], table_rows(metrics)),
    ]
    if metrics["structure"] == "weight":
        body.append(
            "<p class=note>structure = weight: single weights are zero; the network has no fewer "
            "filters and is no faster. MACs and bytes are those of the dense layers.</p>"
        )
    for name, title, words in _PICTURES:
        data = base64.b64encode(pictures[name]).decode()
        body.append(
            f'<h2>{title}</h2><p>{words}</p><img alt="{title}" src="data:image/png;base64,{data}">'
        )
    versions = folder.read_json("versions.json")
    noted = folder.path / "command.txt"
    commands = noted.read_text().splitlines() if noted.is_file() else []
    body += [
        "<h2>How to get this again</h2>",
        *(f"<p><code>{html.escape(command)}</code></p>" for command in commands),
        "<p>The network: <code>prune_gym.load_pruned(folder)</code></p>",
        _table(["", "version"], [(name, value) for name, value in versions.items()]),
    ]
    title = f"prune_gym: {html.escape(str(metrics['algo']))}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


_PICTURES = (
    (
        "search",
        "The search",
        "Reward (validation accuracy), cost against its limit, and the Lagrange multiplier, by "
        "evaluated network; lines are running means of 50.",
    ),
    ("layers", "What each layer keeps", "Filters of the returned network."),
    (
        "networks",
        "Every evaluated network",
        "Accuracy against cost; left of the line is within the limit. The star is the network that "
        "was returned, before fine-tuning.",
    ),
)


def _verdict(metrics: dict[str, Any]) -> str:
    parts = [
        f"{html.escape(name)} {metrics['costs'][name]:.4f} of at most {limit:g}"
        f"{html.escape(budget_in_words(metrics, name))}"
        for name, limit in metrics["limits"].items()
    ]
    word = "within the budget" if metrics["feasible"] else "NOT within the budget"
    scores = metrics["accuracy"]
    test = scores["finetuned_test"]
    split, score = (
        ("validation", scores["finetuned_validation"]) if test is None else ("test", test)
    )
    worse = words_of(metrics.get("fine_tuned"))
    said = f"The network is {word}: {'; '.join(parts)}. Accuracy {100 * score:.2f} % ({split})."
    return f"{said} {worse[:1].upper()}{worse[1:]}".strip()


def _table(head: list[str], rows: list[Any]) -> str:
    lines = ["<table><tr>", *(f"<th>{html.escape(cell)}</th>" for cell in head), "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>")
    return "".join(lines) + "</table>"


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

    panels = [("accuracy", "reward (accuracy)"), ("cost", "cost"), ("multiplier", "multiplier")]
    if np.isnan(_column(rows, "multiplier")).all():  # a control has none
        panels.pop()
    figure = Figure(figsize=(8.0, 2.1 * len(panels)))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    episodes = np.arange(1, len(rows) + 1)
    for panel, (name, label) in zip(axes, panels, strict=True):
        values = _column(rows, name)
        if name != "multiplier":
            panel.plot(episodes, values, ".", color=GOOD, alpha=0.4, markersize=3)
            values = _running_mean(values)
        panel.plot(episodes, values, color=LINE, linewidth=1.4)
        if name == "cost":
            limit = _scalar_limit(metrics)
            panel.axhline(limit, color=LIMIT, linewidth=1.2, label=f"limit {limit:g}")
            panel.legend(loc="upper right", frameon=False)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0.0)
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


def _returned(folder: RunFolder, rows: list[dict[str, str]]) -> int:
    """Number of the row whose network was returned: of those that keep what the plan keeps."""
    kept = {
        f"kept_{row['name']}": (row["kept"] if isinstance(row["kept"], int) else len(row["kept"]))
        / row["filters"]
        for row in read_plan(folder.path)["groups"]
    }
    distance = sum(np.abs(_column(rows, name) - share) for name, share in kept.items())
    feasible, accuracy = _column(rows, "feasible"), _column(rows, "accuracy")
    return int(np.lexsort((_column(rows, "cost"), -accuracy, np.round(distance, 4), -feasible))[0])


def _networks_picture(rows: list[dict[str, str]], metrics: dict[str, Any], returned: int) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(8.0, 4.2))
    axes = figure.add_subplot()
    cost, accuracy = _column(rows, "cost"), _column(rows, "accuracy")
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
    axes.set_ylabel("accuracy after recovery")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    return _png(figure)


def _scalar_limit(metrics: dict[str, Any]) -> float:
    return Constraint(tuple(metrics["limits"].values())).limit
