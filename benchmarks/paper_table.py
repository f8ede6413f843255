"""The paper's table, row by row: dense accuracy, what a search keeps, and the controls beside it.

    python benchmarks/paper_table.py --folder RUNS --rows vgg11 --dataset cifar10 --device auto

Trains the dense network of a row (`prune-gym pretrain`), then runs `prune-gym prune` for every
column, algorithm and seed. Everything is resumable: finished runs are not repeated, interrupted
ones go on, and Ctrl-C or ``--minutes`` stop in good order. A folder of runs belongs to one data set
and one effort: other settings are refused and need another ``--folder``. Results are merged into
``benchmarks/results/paper_table.json`` (or ``--out``) by network, column, algorithm, seed, data
set, evaluations and fine-tuning steps, so that rows can be run on several machines and put
together with ``--merge``. What was not run says so, and so does a search that found nothing within
the limit.

Exit status: 0, also when the time is up; 1 after a failure (the other cells are run all the same);
2 for arguments that cannot be; 130 after Ctrl-C.

Columns: ``paper`` is the coarse variant of arXiv 2110.08558 (single weights, 7.1 % kept for VGG,
24.9 % for ResNet18); ``filters-10`` and ``filters-5`` remove whole filters, one ratio per layer;
``fine-10`` and ``fine-5`` decide filter by filter. Numbers of different structures are never
compared: a network with zeroed weights is no faster. All algorithms of a column judge the same
number of networks; the controls choose one ratio per layer, so they have no fine columns.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from paper_cells import ALGORITHMS, COLUMNS, KEY, ROWS, Task, table, tasks

from agents.files import write_json
from prune_gym.networks import NETWORKS
from prune_gym.networks.checkpoints import checkpoint_path
from prune_gym.utils.cache import cache_dir

RESULTS = Path(__file__).parent / "results" / "paper_table.json"
COMMAND = [sys.executable, "-m", "prune_gym"]
NOTHING_FEASIBLE = 1  # exit status of prune-gym
Cells = dict[tuple[Any, ...], dict[str, Any]]


class TimeIsUpError(RuntimeError):
    """The time limit was reached; what was begun can be resumed."""


class FailedError(RuntimeError):
    """A command ended with an error."""


def main() -> int:
    arguments = parse()
    try:
        cells: Cells = {}
        for path in (arguments.out, *arguments.merge):
            cells |= read(path)
        arguments.dataset = unpacked(arguments.archive, arguments.folder) or arguments.dataset
        if not arguments.merge:
            refuse_other_runs(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    status = 0 if arguments.merge else work(arguments, cells)
    write(arguments.out, cells)
    print(table(list(cells.values()), arguments.rows))
    return status


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, names = parser.add_argument, list(NETWORKS)
    add("--folder", type=Path, required=True, help="where runs are kept")
    add("--rows", nargs="+", default=list(ROWS), choices=names, metavar="NETWORK")
    add("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    add("--algorithms", nargs="+", default=list(ALGORITHMS), choices=ALGORITHMS)
    add("--seeds", type=int, nargs="+", default=[0])
    add("--dataset", default="cifar10", help="what prune-gym takes")
    add("--archive", type=Path, help="tar file of an image folder, instead")
    add("--device", default="auto")
    add("--workers", type=int, help="of a Ray cluster (RAY_ADDRESS, or a local one)")
    add("--minutes", type=float, default=float("inf"), help="time limit")
    add("--epochs", type=int, help="of dense training; default: prune-gym's")
    add("--evaluations", type=int, default=1_500, help="networks per search")
    add("--evaluation-samples", type=int, default=2_000)
    add("--finetune-steps", type=int, default=10_000)
    add("--out", type=Path, default=RESULTS)
    add("--merge", type=Path, nargs="+", default=[], help="results to add; no runs")
    arguments = parser.parse_args()
    for path in arguments.merge:
        if not path.is_file():
            parser.error(f"--merge: there is no file {path}")
    return arguments


def unpacked(archive: Path | None, folder: Path) -> str | None:
    """``folder:PATH`` of an archive's images, unpacked once."""
    if archive is None:
        return None
    target = folder / archive.name.split(".")[0]
    if not target.is_dir():
        partial = target.with_name(target.name + ".partial")
        with tarfile.open(archive) as file:
            file.extractall(partial, filter="data")
        partial.rename(target)
    return f"folder:{target.resolve()}"


def refuse_other_runs(arguments: argparse.Namespace) -> None:
    """Check the runs that are there already, before any work.

    Raises:
        ValueError: one was made with other settings than are asked for now.
    """
    for network in arguments.rows:
        for task in tasks(network, arguments):
            if difference := task.difference(arguments):
                raise ValueError(difference)


def work(arguments: argparse.Namespace, cells: Cells) -> int:
    """Run what is asked for, and put the results into ``cells``; gives the exit status."""
    ends = time.monotonic() + 60.0 * arguments.minutes
    failures: list[str] = []
    interrupted = False
    try:
        for network in arguments.rows:
            try:
                train_dense(network, arguments, ends)
            except FailedError as error:
                failures.append(f"{network}: {error}")
                continue
            for task in tasks(network, arguments):
                try:
                    cell = run(task, arguments, ends)
                except (FailedError, ValueError) as error:  # ValueError: damaged files
                    failures.append(f"{task.out.name}: {error}")
                else:
                    cells[key(cell)] = cell
                    write(arguments.out, cells)
    except TimeIsUpError as error:
        print(f"time is up: {error}")
    except KeyboardInterrupt:
        interrupted = True
        print("stopped; the same command goes on.")
    for failure in failures:
        print(f"failed: {failure}")
    return 130 if interrupted else int(bool(failures))


def train_dense(network: str, arguments: argparse.Namespace, ends: float) -> None:
    path = checkpoint_path(cache_dir(), network, arguments.dataset)
    if path.is_file():
        return
    command = ["pretrain", network, "--dataset", arguments.dataset, "--device", arguments.device]
    if arguments.epochs:
        command += ["--epochs", str(arguments.epochs)]
    if path.with_name(f"{path.stem}.training.safetensors").is_file():
        command.append("--resume")
    if code := call(command, ends):
        raise FailedError(f"prune-gym {shlex.join(command)} ended with exit status {code}.")


def run(task: Task, arguments: argparse.Namespace, ends: float) -> dict[str, Any]:
    """The cell of a search, which is begun, continued, or done already."""
    if not (task.out / "config.json").is_file():
        task.begun(arguments.device)
    if not task.done():
        command = task.command(arguments)
        if arguments.workers is not None:
            command += ["--workers", str(arguments.workers)]
        code = call(command, ends)
        if code == NOTHING_FEASIBLE and task.found_nothing(arguments.evaluations):
            task.note_nothing()
        elif code != 0:
            raise FailedError(f"prune-gym {shlex.join(command)} ended with exit status {code}.")
    return task.cell(arguments.evaluations)


def call(command: list[str], ends: float) -> int:
    """Run ``prune-gym``; give its exit status.

    It runs in a session of its own, where the terminal's Ctrl-C does not reach it: one interrupt
    lets it finish the piece in hand and save, a second one would not.

    Raises:
        TimeIsUpError: not begun, or stopped, because of the time.
        KeyboardInterrupt: stopped by Ctrl-C.
    """
    words = f"prune-gym {shlex.join(command)}"
    if time.monotonic() >= ends:
        raise TimeIsUpError(f"not begun: {words}")
    print("+", words, flush=True)
    process = subprocess.Popen([*COMMAND, *command], start_new_session=True)
    try:
        return process.wait(None if ends == float("inf") else ends - time.monotonic())
    except subprocess.TimeoutExpired as error:
        stop(process)
        raise TimeIsUpError(f"stopped: {words}") from error
    except KeyboardInterrupt:
        stop(process)
        raise


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt once, and wait: more of Ctrl-C changes nothing."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        print("stopping, once the piece in hand is saved ...", flush=True)
        process.send_signal(signal.SIGINT)
        process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in KEY)


def read(path: Path) -> Cells:
    """Cells of a results file by key; none where there is no file.

    Raises:
        ValueError: not a file of results.
    """
    if not path.is_file():
        return {}
    try:
        return {key(cell): cell for cell in json.loads(path.read_text())["cells"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no cells of this table ({error!r}).") from error


def write(path: Path, cells: Cells) -> None:
    write_json(path, {"cells": list(cells.values())}, indent=1)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # they must not leave a search behind
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
