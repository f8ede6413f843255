"""Making tables: chunk after chunk, each written down when it is done, so that a make can go on."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from agents.files import unwritable
from prune_gym.budgets import BUDGETS, Budget
from prune_gym.errors import FileError, InvalidValueError, TableError
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.sizes import TensorSizes
from prune_gym.tables.counted import Polynomial
from prune_gym.tables.files import facts_of
from prune_gym.tables.table import PruneTable
from prune_gym.tables.walk import Levels, Walk, classes_of
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.threads import one_thread

# dense where networks under tight budgets are: a halving grid misses half of their accuracy
FRACTIONS = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
MOST_NETWORKS = 2**28
_CHUNK = 2000  # networks at most that are walked over before they are written down
_NAMES = ("params", "macs", "size_bytes", "energy_uj")  # counted budgets, in every table
_NOT_JUDGED = ("budgets", "unpruned_values", "batch_size")  # arguments of no table

Progress = Callable[[int], None]


def levels_of(sizes: Sequence[int], fractions: Sequence[float] = FRACTIONS) -> Levels:
    """Numbers of filters to keep of groups with so many filters.

    >>> levels_of([16, 4], (1 / 16, 1 / 4, 3 / 8, 1.0))
    ((1, 4, 6, 16), (1, 2, 4))
    """
    return tuple(tuple(sorted({max(1, round(f * n)) for f in fractions})) for n in sizes)


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise ValueError unless these are fractions of filters to keep."""
    are_fine = all(isinstance(f, int | float) and 0.0 < f <= 1.0 for f in fractions)
    if not fractions or not are_fine or len(set(fractions)) != len(fractions):
        raise InvalidValueError(
            f"levels={list(fractions)}: expected fractions of the filters to keep, each in (0, 1] "
            "and none twice, e.g. 0.125 0.25 0.5 1."
        )


def make_table(
    problem: PruningProblem,
    levels: Sequence[float] = FRACTIONS,
    *,
    partial: Path | None = None,
    progress: Progress | None = None,
) -> PruneTable:
    """Judge every network of a grid.

    Budgets that are counted are in the table whether the problem has them or not; those of the
    problem that are measured are measured on every network, which takes its time.

    Args:
        problem: with the recovery ``"bn"`` or ``"none"``, on the CPU, in float32.
        levels: fractions of every group's filters that networks may keep, in (0, 1].
        partial: a file of what was judged so far, which a make that was stopped goes on with.
        progress: called with the networks judged so far.

    Raises:
        ValueError: levels that are none, too many networks, or a problem that is judged otherwise.
        UnsupportedNetworkError: a network that the walk cannot follow.
        TableError: ``partial`` is of another table.

    >>> import prune_gym
    >>> table = make_table(prune_gym.make_problem(), (0.25,))
    >>> len(table), table.entry(0).counts
    (1, (4, 8, 16, 16, 32, 32, 32, 32))
    """
    check_fractions(levels)
    n_networks(problem, levels)
    work = _Work(problem, levels_of(problem.sizes.tolist(), levels))
    with one_thread():
        content = work.do(partial, progress or (lambda done: None))
    return work.table(content)


def n_networks(problem: PruningProblem, levels: Sequence[float]) -> int:
    """How many networks a grid has (raises ValueError where they are too many)."""
    grid = levels_of(problem.sizes.tolist(), levels)
    n = math.prod(len(own) for own in grid)
    if n > MOST_NETWORKS:
        raise InvalidValueError(
            f"{len(levels)} levels of {len(grid)} groups are {n:,} networks; give fewer levels, or "
            f"keep layers whole (ignore): {MOST_NETWORKS:,} at most."
        )
    return n


class _Work:
    """All chunks of a table."""

    def __init__(self, problem: PruningProblem, grid: Levels) -> None:
        self.problem, self.grid = problem, grid
        self.measured = [i for i, b in enumerate(problem.budgets) if b.counted is None]
        self.n_splits = 1 if problem.data.test is None else 2
        self.shape = tuple(len(own) for own in grid)
        below = np.cumprod([1, *self.shape[::-1]])[::-1]  # networks below each depth
        self.depth = int(np.argmax(below <= _CHUNK))
        self.n_chunks, self.n_below = math.prod(self.shape[: self.depth]), int(below[self.depth])
        self.dtype = np.dtype(
            [("right", "<u2", (self.n_splits,)), ("measured", "<f8", (len(self.measured),))]
        )

    def do(self, partial: Path | None, progress: Progress) -> NDArray[Any]:
        """Every network's row, in order."""
        log = _Log(partial, self._heading(), self.n_below * self.dtype.itemsize)
        walk = Walk(self.problem, self.grid)  # before a file is begun, as it may refuse
        with log:
            for chunk in range(len(log), self.n_chunks):
                progress(chunk * self.n_below)
                check_stop()
                log.append(self._rows(walk, chunk).tobytes())
            progress(self.n_chunks * self.n_below)
            return np.frombuffer(log.content(), self.dtype)

    def _rows(self, walk: Walk, chunk: int) -> NDArray[Any]:
        prefix = np.unravel_index(chunk, self.shape[: self.depth]) if self.depth else ()
        levels = [int(level) for level in prefix]
        rows = np.zeros(self.n_below, self.dtype)
        rows["right"] = walk.right(levels).reshape(self.n_below, self.n_splits)
        if self.measured:
            for row, place in zip(rows, np.ndindex(self.shape[self.depth :]), strict=True):
                check_stop()
                own = zip(self.grid, (*levels, *place), strict=True)
                masks = self.problem.masks_of([counts[level] for counts, level in own])
                row["measured"] = self.problem.values(masks)[self.measured]
        return rows

    def table(self, rows: NDArray[Any]) -> PruneTable:
        """The table of every network's row."""
        problem = self.problem
        names = [problem.names[i] for i in self.measured]
        columns = rows["measured"].T.reshape(len(names), *self.shape)
        unpruned = problem.unpruned_values[self.measured].tolist()
        splits = [problem.data.validation, problem.data.test]
        return PruneTable(
            groups=tuple(group.name for group in problem.groups),
            sizes=problem.sizes,
            levels=self.grid,
            scores=tuple(np.asarray(scores, dtype=np.float64) for scores in problem.scores),
            right=rows["right"].reshape(*self.shape, self.n_splits),
            n_examples=tuple(len(split) for split in splits if split is not None),
            counted=_counted(problem),
            measured=dict(zip(names, columns, strict=True)),
            unpruned=dict(zip(names, unpruned, strict=True)),
            arguments=_arguments(problem),
            digest=digest_of(problem),
        )

    def _heading(self) -> bytes:
        """What tells one table from another before anything is judged."""
        facts = facts_of(self.table(np.zeros(math.prod(self.shape), self.dtype)))
        return json.dumps({**facts, "chunk": self.n_below}).encode() + b"\n"


class _Log:
    """Chunks in a file, one behind the other, each with a checksum; without a file, in memory.

    Args:
        path: of the file; None = in memory.
        heading: with which the file begins.
        size: bytes of a chunk.
    """

    def __init__(self, path: Path | None, heading: bytes, size: int) -> None:
        self._path, self._heading, self._size = path, heading, size
        self._chunks: list[bytes] = []
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return len(self._chunks)

    def __enter__(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
            self._read()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise unwritable(self._path, error, FileError) from error
            raise

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self) -> None:
        """Take up what is whole; what a stop has cut off goes."""
        file: Any = self._file
        file.seek(0)
        content = file.read(len(self._heading))
        if content and content != self._heading[: len(content)]:
            raise TableError(
                f"{self._path} was begun for another table, or by another version; remove it, or "
                "give another file."
            )
        if content != self._heading:
            file.truncate(0)
            file.write(self._heading)
        while len(record := file.read(4 + self._size)) == 4 + self._size:
            if zlib.crc32(record[4:]) != struct.unpack("<I", record[:4])[0]:
                break
            self._chunks.append(record[4:])
        file.truncate(len(self._heading) + len(self._chunks) * (4 + self._size))

    def append(self, chunk: bytes) -> None:
        """Add a chunk."""
        self._chunks.append(chunk)
        if self._file is not None and self._path is not None:
            try:
                self._file.write(struct.pack("<I", zlib.crc32(chunk)) + chunk)
                self._file.flush()
            except OSError as error:
                raise unwritable(self._path, error, FileError) from error

    def content(self) -> bytes:
        """All chunks."""
        return b"".join(self._chunks)


def _counted(problem: PruningProblem) -> dict[str, Polynomial]:
    """Counted budgets, the problem's own first."""
    own = {budget.name: budget for budget in problem.budgets if budget.counted is not None}
    taken = {budget.name for budget in problem.budgets}
    budgets: dict[str, Budget] = {
        **own,
        **{name: BUDGETS.get(name)() for name in _NAMES if name not in taken},
    }
    sizes = TensorSizes.of(problem.network, problem.groups)
    weights = {
        name: sizes.weights(budget.element_weights(problem.network, problem.example))
        for name, budget in budgets.items()
    }
    return {name: Polynomial.of(sizes, own) for name, own in weights.items()}


def _arguments(problem: PruningProblem) -> dict[str, Any] | None:
    """Arguments of `make_problem` that say what was judged; budgets are the table's own."""
    if problem.arguments is None:
        return None
    given = dict(problem.arguments)
    return {name: value for name, value in given.items() if name not in _NOT_JUDGED}


def digest_of(problem: PruningProblem) -> str:
    """A digest of the unpruned network's weights and of the labels that networks are judged by."""
    found = hashlib.sha256()
    for name, tensor in sorted(problem.network.state_dict().items()):
        found.update(name.encode() + tensor.numpy(force=True).tobytes())
    for split in (problem.data.validation, problem.data.test):
        if split is not None:
            found.update(classes_of(split).numpy(force=True).tobytes())
    return found.hexdigest()[:16]
