"""What a leaderboard looks like: tables, sentences, files, and the command that shows them."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agents.benchmark.leaderboard import (
    OPTIMUM,
    Leaderboard,
    Ranking,
    Standing,
    choose_tasks,
    leaderboard,
)
from agents.benchmark.leaderboard_files import check_packed, pack
from agents.benchmark.suite import DEFAULT_SUITE, Suite, load_suite, own_folder
from agents.comparison.pairwise import POWER, Pair
from agents.comparison.report import duration, grid, interval, number
from agents.errors import BenchmarkError
from agents.files import make_folder, replacing, write_json

NAME = "leaderboard"  # of the files
HEAD = """\
Scores: 0 = random search's median, 1 = the exact optimum or the best known. IQM: interquartile mean
over runs, tasks alike, with a 95 % interval of a stratified bootstrap. Ranks: all that the tests
leave possible; the exact optimum is the end of the scale, and not ranked. Over: share of networks
that break a limit, of those judged in training and of those of the final policy, sampled. Pairs are
told apart where Mann-Whitney's and Brunner-Munzel's tests both say so (runs are not paired; summed
over tasks), Holm-corrected: 5 % for all pairs of a table together."""


def show_leaderboard(
    add: Sequence[str | os.PathLike[str]] = (),
    *,
    suite: str | Path | Suite = DEFAULT_SUITE,
    tasks: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    packed: str | os.PathLike[str] | None = None,
    published: bool = True,
    reps: int = 2000,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Leaderboard:
    """Print a leaderboard, and write it to a folder.

    Args:
        add: As for `agents.leaderboard`, as are the other arguments that are not here.
        suite: As there.
        tasks: As there.
        out: Folder for tables, numbers and figures; none if left out.
        packed: File to make of the added rows of these tasks, ``NAME.jsonl.gz``: a submission; none
            if left out.
        published: As there.
        reps: As there.
        seed: As there.
        say: Called with what is to be printed.

    Returns:
        The leaderboard.
    """
    folder = None if out is None else own_folder(out)
    suite = load_suite(suite)
    file = None if packed is None else check_packed(packed)
    if file is not None and not add:
        raise BenchmarkError(f"{file} would hold no rows; add some: --add FOLDER.")
    board = leaderboard(add, suite=suite, tasks=tasks, published=published, reps=reps, seed=seed)
    say(text(board, with_tasks=tasks is not None))
    if folder is not None:
        for path in save(board, folder):
            say(f"wrote {path}")
    if file is not None:
        names = sorted({row.algorithm for row in board.rows if row.algorithm in board.added})
        made = pack(add, file, suite, choose_tasks(tasks, suite))
        say(f"wrote {made}, rows of {', '.join(names)}")
    return board


def text(board: Leaderboard, *, with_tasks: bool = True) -> str:
    """Return the rankings as Markdown.

    Args:
        board: The leaderboard.
        with_tasks: Whether those of single tasks are wanted, too.
    """
    head = f"{board.suite.protocol} ({board.suite.hash}), {len(board.rows)} runs. {HEAD}"
    shown: dict[tuple[str, ...], Ranking] = {}
    for ranking in board.rankings:
        if with_tasks or ranking.name not in board.suite.tasks or len(board.rankings) == 1:
            shown.setdefault(ranking.tasks, ranking)  # one table for a category of one task
    sections = [_section(board, ranking) for ranking in shown.values()]
    bare = ", ".join(board.without_score)
    if bare:
        sections.append(f"Without reference values yet, and therefore not here: {bare}.")
    return "\n\n".join([head, *sections])


def save(board: Leaderboard, folder: str | os.PathLike[str]) -> list[Path]:
    """Write all tables (Markdown, CSV), all numbers (JSON) and the figures.

    Args:
        board: The leaderboard.
        folder: Where to; made if it is not there. Files of an earlier leaderboard are replaced.

    Returns:
        The files: ``leaderboard.md``, ``.csv``, ``.json``, and the figures, ``leaderboard_*.png``.

    Raises:
        BenchmarkError: If the folder is the package's, or there is nothing to write.
        FileError: If it cannot be made, or takes no file.
    """
    from agents.benchmark.leaderboard_figures import FIGURES

    folder = make_folder(own_folder(folder))
    files = [folder / f"{NAME}.{kind}" for kind in ("md", "csv", "json")]
    with replacing(files[0]) as partial:
        partial.write_text(text(board) + "\n", encoding="utf-8")
    lines = [
        {"tasks": ranking.name, **_flat(one)}
        for ranking in board.rankings
        for one in ranking.standings
    ]
    with replacing(files[1]) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    write_json(files[2], record(board))
    for name, draw in FIGURES.items():
        figure = draw(board)
        if figure is None:
            continue
        files.append(folder / f"{NAME}_{name}.png")
        with replacing(files[-1]) as partial:
            figure.savefig(partial, dpi=150, format="png")
    return files


def record(board: Leaderboard) -> dict[str, Any]:
    """Return every number of a leaderboard as plain data."""
    return {
        "protocol": board.suite.protocol,
        "suite_hash": board.suite.hash,
        "settings": dict(board.settings),
        "added": list(board.added),
        "rankings": [
            {
                "tasks": ranking.name,
                "names": list(ranking.tasks),
                "standings": [_flat(one) for one in ranking.standings],
                "pairs": [_pair(pair) for pair in ranking.pairs],
                "not_ranked": [list(pair) for pair in ranking.unranked_pairs],
                "detectable": asdict(ranking.detectable),
            }
            for ranking in board.rankings
        ],
    }


# -- text ------------------------------------------------------------------------------------------


def _section(board: Leaderboard, ranking: Ranking) -> str:
    tasks = board.suite.how_many(ranking.tasks, ranking.name)
    name = board.suite.tasks[ranking.name].title if ranking.name in board.suite.tasks else ""
    title = f"## {ranking.name}" + (f": {name}" if name else f" ({tasks})")
    parts = [title, _table(ranking)]
    if len(ranking.ranked) > 1:
        parts += [in_words(ranking), detectable_in_words(ranking)]
    missing = [one for one in ranking.standings if one.missing]
    if missing:
        words = ", ".join(f"{one.algorithm} ({one.missing} runs missing)" for one in missing)
        parts.append(f"Incomplete, and therefore not ranked: {words}.")
    return "\n\n".join(parts)


def _table(ranking: Ranking) -> str:
    rows = ranking.standings
    columns = {
        "ranks": [_ranks(one) for one in rows],
        "algorithm": [one.algorithm for one in rows],
        "runs": [str(one.runs) for one in rows],
        "IQM of scores": ["-" if one.score is None else interval(one.score) for one in rows],
        "regret": [number(one.regret) for one in rows],
        "over in training": [number(one.violation_rate) for one in rows],
        "over, final policy": [number(one.final_violation_rate) for one in rows],
        "found nothing": [number(one.found_nothing) for one in rows],
        "time a run": [duration(one.wall_s) for one in rows],
    }
    return grid(columns)


def _ranks(standing: Standing) -> str:
    if standing.ranks is None:
        return "scale" if standing.algorithm == OPTIMUM and not standing.missing else "-"
    first, last = standing.ranks
    return str(first) if first == last else f"{first} to {last}"


def in_words(ranking: Ranking) -> str:
    """Say which pairs of a ranking cannot be ranked, each under the better of the two."""
    total, unranked = len(ranking.pairs), ranking.unranked_pairs
    if not unranked:
        return "The pair is told apart." if total == 1 else f"All {total} pairs are told apart."
    others: dict[str, list[str]] = {}
    for one, other in unranked:
        others.setdefault(one, []).append(other)
    pairs = "; ".join(f"{one} and {', '.join(names)}" for one, names in others.items())
    if total == 1:
        return f"The pair cannot be ranked: {pairs}."
    if len(unranked) == total:
        return f"None of the {total} pairs can be ranked: {pairs}."
    return f"{len(unranked)} of {total} pairs cannot be ranked: {pairs}."


def detectable_in_words(ranking: Ranking) -> str:
    """Say which difference the tests of a ranking would find."""
    found, total = ranking.detectable, len(ranking.pairs)
    among = "1 pair" if total == 1 else f"{total} pairs"
    if found.probability is None or found.deviations is None:
        return f"Detectable: none; for {among} there are too few runs."
    score = "" if found.score is None else f", here about {found.score:.3f} of score"
    return (
        f"Detectable, {100 * POWER:.0f} times of 100 among {among}: a probability of "
        f"{found.probability:.2f} that a run of the one scores higher than a run of the other "
        f"(normal scores {found.deviations:.2f} standard deviations of a run apart{score})."
    )


# -- plain data ------------------------------------------------------------------------------------


def _flat(standing: Standing) -> dict[str, Any]:
    """Return a standing with a column for every number."""
    fields = asdict(standing)
    score, ranks = standing.score, standing.ranks
    del fields["score"], fields["ranks"]
    return {
        "algorithm": fields.pop("algorithm"),
        "rank_low": None if ranks is None else ranks[0],
        "rank_high": None if ranks is None else ranks[1],
        "iqm": None if score is None else score.value,
        "iqm_low": None if score is None else score.low,
        "iqm_high": None if score is None else score.high,
        **fields,
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {**asdict(pair), "probability": pair.probability._asdict(), "better": pair.better}
