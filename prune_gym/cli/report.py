"""The report of a run: one HTML page that needs nothing else, with its pictures inside."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from prune_gym.budgets import amount
from prune_gym.cli.pictures import draw_pictures
from prune_gym.cli.scores import metric_of, share_or_score
from prune_gym.cli.settings import settings_rows
from prune_gym.problem.saving import read_plan
from prune_gym.problem.trust import load_call
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.fine_tuning import words_of
from prune_gym.searches.remeasure import spread_in_words
from prune_gym.searches.run_folder import RunFolder
from prune_gym.utils.files import inner_folder, replacing

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.3rem .9rem;text-align:right;
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left;padding-left:0}
img{max-width:100%;height:auto}code{background:#f2f2f2;padding:.1rem .3rem}
.verdict{font-size:1.1rem;padding:.6rem 1rem;border-left:5px solid #1f6f8b;background:#eef5f7}
.note{color:#555;font-size:.9rem}
.words td,.words th{text-align:left;vertical-align:top}.words td:first-child{white-space:nowrap}
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
    pictures = draw_pictures(folder, metrics)
    inner = inner_folder(folder.path / "pictures")
    for name, data in pictures.items():
        with replacing(inner / f"{name}.png") as partial:
            partial.write_bytes(data)
    page = folder.path / "report.html"
    with replacing(page) as partial:
        content = _page(folder, config, metrics, pictures)
        partial.write_text(content, encoding="utf-8", errors="surrogateescape")
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
    metric = metric_of(metrics)
    last = "fine-tuned" if metrics["finetune_steps"] else "handed over"
    of = " in the last round" if "rounds" in metrics else ""
    compared = [
        ("dense_validation", "raw_validation", f"validation {metric}, as cut{of}"),
        ("dense_validation", "recovered_validation", f"validation {metric}, recovered{of}"),
        ("dense_validation", "finetuned_validation", f"validation {metric}, {last}"),
        ("dense_test", "finetuned_test", f"test {metric}, {last}"),
    ]
    if "finetuned_validation_float32" in scores:  # the rows above are in another precision
        words = f"validation {metric}, {last}, in float32"
        compared.insert(3, ("dense_validation_float32", "finetuned_validation_float32", words))
    for before, after, label in compared:
        if scores[after] is None and after == "finetuned_test":
            one, other = "no test split", "no test split"
        else:
            one, other = (share_or_score(metric, scores[key]) for key in (before, after))
        rows.append((label, one, other, ""))
    return rows


def budget_in_words(metrics: dict[str, Any], name: str) -> str:
    """What a cost and its limit are in the budget's unit, and how far measurements spread."""
    dense, unit = metrics["unpruned_values"][name], metrics["units"][name]
    value, limit = (metrics[kind][name] * dense for kind in ("costs", "limits"))
    measured = metrics["measured"].get(name)
    spread = "" if measured is None else f"; cost {spread_in_words(measured)}"
    return f" ({amount(value, unit)} of at most {amount(limit, unit)}{spread})"


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
            "filters and is no faster. MACs and bytes are those of the unpruned layers.</p>"
        )
    gone = read_plan(folder.path).get("gone", {})
    if gone:
        names = ", ".join(f"<code>{html.escape(name)}</code>" for name in gone)
        body.append(f"<p>Residual blocks went whole; gone are {names}.</p>")
    if "rounds" in metrics:
        body += ["<h2>Rounds</h2>", _table(list(_ROUNDS), _rounds_rows(metrics))]
    for name, title, words in _PICTURES:
        if name not in pictures:
            continue
        said = words.format(metric=html.escape(metric_of(metrics)))
        data = base64.b64encode(pictures[name]).decode()
        body.append(
            f'<h2>{title}</h2><p>{said}</p><img alt="{title}" src="data:image/png;base64,{data}">'
        )
    body += ["<h2>Settings</h2>", _table([], settings_rows(config, metrics), "words")]
    versions = folder.read_json("versions.json")
    body += [
        "<h2>How to get this again</h2>",
        *(f"<p><code>{html.escape(command)}</code></p>" for command in folder.commands()),
        f"<p>The network: <code>{load_call(config.problem.get('network'))}</code></p>",
        _table(["", "version"], list(versions.items()), "words"),
    ]
    title = f"prune_gym: {html.escape(str(metrics['algo']))}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


_ROUNDS = (
    *("round", "at most", "networks evaluated", "fine-tuning, steps"),
    *("validation, recovered", "validation, fine-tuned"),
)


def _rounds_rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row per round; its limits are relative to the network that it began with."""
    rows = []
    for row in metrics["rounds"]:
        limits = (
            f"{name} {limit:.4g} of what it began with" for name, limit in row["limits"].items()
        )
        scores = (share_or_score(metric_of(metrics), score) for score in row["validation"].values())
        counts = f"{row['evaluations']:,}", f"{row['finetune_steps']:,}"
        rows.append((str(row["round"]), "; ".join(limits), *counts, *scores))
    return rows


_PICTURES = (
    (
        "search",
        "The search",
        "Reward (of the validation {metric}), cost against its limit, and an agent's Lagrange "
        "multiplier, by evaluated network; lines are running means of 50.",
    ),
    ("layers", "What each layer keeps", "Filters of the returned network."),
    (
        "sensitivity",
        "What each layer can lose",
        "The sensitivity scan, with which the search began: lost reward (of the validation "
        "{metric}) where one group alone is cut. Light groups can be cut deeply.",
    ),
    (
        "networks",
        "Every evaluated network",
        "Reward (of the validation {metric}) against cost; left of the line is within the limit. "
        "The star is the network that was returned, before fine-tuning.",
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
    metric, worse = metric_of(metrics), words_of(metrics.get("fine_tuned"))
    name = html.escape(f"{metric[:1].upper()}{metric[1:]}")
    scored = f"{name} {share_or_score(metric, score)} ({split})"
    said = f"The network is {word}: {'; '.join(parts)}. {scored}."
    return f"{said} {worse[:1].upper()}{worse[1:]}".strip()


def _table(head: list[str], rows: list[Any], kind: str = "") -> str:
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f'<table class="{kind}">', f"<tr>{cells}</tr>" if head else ""]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>")
    return "".join(lines) + "</table>"
