"""The sensitivity scan in a terminal, and that of a run, which its first rows hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prune_gym.cli.scores import rewards_of
from prune_gym.errors import RunFolderError
from prune_gym.problem.sensitivity import Sensitivity
from prune_gym.searches.run_folder import RunFolder

_BAR = 20  # characters


def say_sensitivity(sensitivity: Sensitivity, console: Console) -> None:
    """Print what each group can lose: the reward at each width, and bars of what is lost.

    Args:
        sensitivity: of a network.
        console: where to print.
    """
    most = max([0.0, *(float(own.max()) for own in sensitivity.drops if own.size)])
    table = Table("group", title="what the reward loses where one group alone is cut", box=None)
    table.title_justify = "left"
    for name in ("filters", "kept", "reward", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for name, size, kept, rewards, drops in zip(
        sensitivity.names,
        sensitivity.sizes.tolist(),
        sensitivity.counts,
        sensitivity.rewards,
        sensitivity.drops,
        strict=True,
    ):
        for row, (n, reward, drop) in enumerate(zip(kept, rewards, drops, strict=True)):
            first = (escape(name), f"{size:,}") if row == 0 else ("", "")
            bar = "#" * round(_BAR * float(drop) / (most or 1.0))
            table.add_row(*first, f"{n:,}", f"{reward:.3f}", f"{drop:.3f}", bar)
    console.print(table)
    console.print(
        f"{sensitivity.evaluations:,} networks were judged; the unpruned one, recovered, "
        f"has {sensitivity.unpruned:.3f}. A loss at one width holds for all narrower ones."
    )


def scan_of_run(path: Path) -> Sensitivity:
    """The scan with which the search of a run began.

    Raises:
        RunFolderError: it began with none.
    """
    folder, config = RunFolder.open(path)
    if config.rounds > 1:
        return scan_of_run(folder.round(1).path)  # the others are of what was left
    found = scan_of_rows(folder.read_episodes(), config.groups)
    if found is None:
        raise RunFolderError(
            f"--sensitivity: the search of {path} began with no sensitivity scan; "
            "prune-gym inspect NETWORK --sensitivity judges one."
        )
    return found


def scan_of_rows(rows: list[dict[str, str]], groups: Mapping[str, int]) -> Sensitivity | None:
    """The sensitivity scan that a search began with: the unpruned network, then one group each.

    Args:
        rows: of ``episodes.csv``, in their order.
        groups: filters by name of the group.

    Returns:
        None where the first row is not the unpruned network, or no group was cut alone.
    """
    names, sizes = tuple(groups), np.array(list(groups.values()), dtype=np.int64)
    if not rows or any(f"kept_{name}" not in rows[0] for name in names):
        return None
    shares = np.array([[float(row[f"kept_{name}"]) for name in names] for row in rows])
    counts = np.rint(shares * sizes).astype(np.int64)  # (n_rows, n_groups)
    is_cut = counts != sizes
    if not len(names) or is_cut[0].any():
        return None
    n_scanned, latest = 1, (-1, -1)
    while n_scanned < len(rows):
        if is_cut[n_scanned].sum() != 1:
            break
        group = int(np.argmax(is_cut[n_scanned]))
        place = group, int(counts[n_scanned, group])
        if place <= latest:  # a scan goes on from group to group, and to wider ones of each
            break
        latest, n_scanned = place, n_scanned + 1
    if n_scanned == 1:
        return None
    rewards = rewards_of(rows[:n_scanned])
    of_group = [np.flatnonzero(is_cut[:n_scanned, group]) for group in range(len(names))]
    return Sensitivity(
        names=names,
        sizes=sizes,
        unpruned=float(rewards[0]),
        counts=tuple(counts[own, group] for group, own in enumerate(of_group)),
        rewards=tuple(rewards[own] for own in of_group),
    )
