"""One problem for many processes: its arrays lie in one file that all of them map."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agents.own_code import by_value
from prune_gym.errors import FileError, InvalidTypeError, SharingError
from prune_gym.problem.problem import PruningProblem
from prune_gym.utils.arguments import MOST_THREADS, whole_number

_SMALL = 4096  # bytes; below, an array travels with the rest
_ALIGNED = 64


class SharedProblem:
    """A handle on a problem that other processes open without copying its arrays.

    It can be pickled, so that it goes wherever a problem goes: ``gym.make("PruneVGG-v0",
    problem=shared)`` in a worker of ``SubprocVecEnv`` or ``AsyncVectorEnv`` on the same machine.
    The arrays (images as they are judged, training data, unpruned weights, scores) are mapped
    there from one temporary file, ``prune_gym-*``, which is removed when this handle, and with it
    the process that made it, is gone (a process that is killed leaves it behind). A handle that
    is read from a file runs what its pickle says: take none from somebody else.

    With ``ray`` the arrays lie in the object store of a Ray cluster instead, and every machine of
    it maps its own copy; they stay there as long as the handle and the connection.

    Args:
        problem: on the CPU.
        threads: of torch in a process that opens it; workers with more than their share of the
            cores wait for each other.
        ray: the module, connected (``ray.init``), for processes on the machines of a cluster.

    Raises:
        TypeError: ``problem`` is none; build one with `prune_gym.make_problem`.
        SharingError: the problem is on an accelerator, holds what cannot be pickled, or does not
            fit into the object store.
        FileError: the folder for temporary files is full.
    """

    def __init__(self, problem: PruningProblem, threads: int = 1, ray: Any = None) -> None:
        whole_number("threads", threads, 1, MOST_THREADS)
        if not isinstance(problem, PruningProblem):
            raise InvalidTypeError(
                f"problem={problem!r}: expected a PruningProblem; build one with make_problem()."
            )
        if problem.device.type != "cpu":
            raise SharingError(
                f"the problem is on {problem.device}; processes share it on the CPU only. "
                "Use gym.make_vec(), whose environments share it within one process."
            )
        _ = problem.evaluator  # made here, so that its images are shared as well
        self.threads = threads
        self._problem: PruningProblem | None = problem
        self._owner = os.getpid()
        self._reference: bytes | None = None  # of the arrays in the object store
        if ray is None:
            self._write_file(problem)
        else:
            self._store(problem, ray)
        _OPENED[str(self._path)] = problem

    def _write_file(self, problem: PruningProblem) -> None:
        try:
            descriptor, name = tempfile.mkstemp(prefix="prune_gym-")
            self._path = Path(name)
            self._close = weakref.finalize(self, _remove, self._path, self._owner)
            with os.fdopen(descriptor, "wb") as file:
                self._rest, self._n_bytes = write_arrays(problem, file)
        except OSError as error:
            raise FileError(
                error.errno,
                f"the problem cannot be shared in {tempfile.gettempdir()} ({error.strerror}); free "
                "space there, or set the environment variable TMPDIR to another folder.",
            ) from error

    def _store(self, problem: PruningProblem, ray: Any) -> None:
        file = io.BytesIO()
        with by_value():
            self._rest, self._n_bytes = write_arrays(problem, file)
        try:
            self._held = ray.put(np.frombuffer(file.getbuffer(), np.uint8))
        except ray.exceptions.RayError as error:
            raise SharingError(
                f"the problem, {self._n_bytes / 1e6:,.0f} MB, does not fit into the object store: "
                f"{' '.join(str(error).split())[:200]} Start Ray with more (ray start "
                "--object-store-memory BYTES)."
            ) from error
        self._path = Path(self._held.hex())
        self._reference = ray.cloudpickle.dumps(self._held)

    def __getstate__(self) -> dict[str, Any]:
        """All but the problem, and what removes its arrays, which is up to the process here."""
        return {**vars(self), "_problem": None, "_close": None, "_held": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedProblem:
        """Itself: whoever holds it keeps the file."""
        return self

    def open(self) -> PruningProblem:
        """The problem: itself where it was made, elsewhere around the mapped arrays.

        In another process, torch gets ``threads`` threads.

        Raises:
            SharingError: the process that made the handle has ended, or let go of it, or ran on
                another machine.
        """
        if os.getpid() != self._owner:
            torch.set_num_threads(self.threads)
        if self._problem is not None:
            return self._problem
        name = str(self._path)
        problem = _OPENED.get(name)
        if problem is None:
            problem = _OPENED[name] = self._read()
        return problem

    def _read(self) -> PruningProblem:
        if self._reference is not None:
            return read_arrays(self._rest, _stored(self._reference))
        if not self._path.is_file():
            raise SharingError(
                f"{self._path} is gone: the process that shared the problem has ended, holds the "
                "handle no longer, or runs on another machine (share(problem, ray=ray) is for "
                "those of a Ray cluster). Keep the handle as long as there are workers."
            )
        return _read(self._rest, self._path, self._n_bytes)


# by file, in this process, as long as something here uses it
_OPENED: weakref.WeakValueDictionary[str, PruningProblem] = weakref.WeakValueDictionary()


def share(problem: PruningProblem, threads: int = 1, ray: Any = None) -> SharedProblem:
    """A handle on a problem for other processes; see `SharedProblem`.

    Args:
        problem: on the CPU.
        threads: of torch in a process that opens it.
        ray: the module, connected, where those processes are on machines of a Ray cluster.

    >>> import prune_gym
    >>> shared = prune_gym.share(prune_gym.make_problem())
    >>> shared.open().limits
    (0.1,)
    """
    return SharedProblem(problem, threads, ray)


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker ends like its parent
        _OPENED.pop(str(path), None)
        with contextlib.suppress(OSError):  # Windows keeps a file that a worker still maps
            path.unlink()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Writes arrays to the file; in the pickle stands where they lie."""

    def __init__(self, stream: Any, file: Any) -> None:
        super().__init__(stream)
        self._file = file
        self._storages: dict[tuple[int, int], int] = {}  # offset by address and length
        self._held: dict[int, tuple[int, Any]] = {}  # number and object by id

    def persistent_id(self, value: Any) -> Any:
        if type(value) is np.ndarray and value.nbytes >= _SMALL and value.dtype.kind in "biufc":
            array = np.ascontiguousarray(value)
            place = (self._put(array.__array_interface__["data"][0], array), array.dtype.str)
            return "array", self._number(value, array), (*place, array.shape)
        if type(value) not in (torch.Tensor, nn.Parameter) or value.layout != torch.strided:
            return None
        if value.is_conj() or value.is_neg():
            return None
        storage = value.untyped_storage()
        if storage.nbytes() < _SMALL:
            return None
        raw = torch.empty(0, dtype=torch.uint8).set_(storage)
        start = self._put(storage.data_ptr(), raw.numpy())
        offset = start + value.storage_offset() * value.element_size()
        layout = (offset, value.dtype, tuple(value.shape), value.stride())
        learns = value.requires_grad if isinstance(value, nn.Parameter) else None
        return "tensor", self._number(value, raw), (*layout, learns)

    def _put(self, address: int, raw: Any) -> int:
        content = memoryview(raw).cast("B")
        key = address, len(content)
        if key not in self._storages:
            self._file.seek(-(-self._file.tell() // _ALIGNED) * _ALIGNED)
            self._storages[key] = self._file.tell()
            self._file.write(content)
        return self._storages[key]

    def _number(self, value: Any, raw: Any) -> int:
        """A number for each object; it is held, so that its id and address stay its own."""
        return self._held.setdefault(id(value), (len(self._held), (value, raw)))[0]


class _Unpickler(pickle.Unpickler):
    """Puts views of the arrays' bytes, (n_bytes,) uint8, where they stood."""

    def __init__(self, stream: Any, raw: torch.Tensor) -> None:
        super().__init__(stream)
        self._bytes = raw
        self._made: dict[int, Any] = {}

    def persistent_load(self, pid: Any) -> Any:
        kind, number, place = pid
        if number not in self._made:
            self._made[number] = (self._tensor if kind == "tensor" else self._array)(*place)
        return self._made[number]

    def _array(self, offset: int, kind: str, shape: tuple[int, ...]) -> Any:
        array: Any = np.frombuffer(self._bytes.numpy(), np.dtype(kind), int(np.prod(shape)), offset)
        return array.reshape(shape)

    def _tensor(
        self,
        offset: int,
        dtype: torch.dtype,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool | None,
    ) -> torch.Tensor:
        tensor = torch.empty(0, dtype=dtype).set_(
            self._bytes.untyped_storage(), offset // dtype.itemsize, shape, stride
        )
        return tensor if requires_grad is None else nn.Parameter(tensor, requires_grad)


def write_arrays(problem: PruningProblem, file: Any) -> tuple[bytes, int]:
    """Write the arrays of a problem to a binary file; the rest comes back, and the file's length.

    Raises:
        SharingError: something in it cannot be pickled.
    """
    stream = io.BytesIO()
    try:
        _Pickler(stream, file).dump(problem)
    except (pickle.PicklingError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise SharingError(
            f"the problem cannot be shared, as something in it cannot be pickled: {error}. Is a "
            "budget, a recovery or the network made of something that belongs to this process?"
        ) from error
    file.write(b"\0")
    return stream.getvalue(), file.tell()


def _read(rest: bytes, path: Path, n_bytes: int) -> PruningProblem:
    storage: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=n_bytes)
    return read_arrays(rest, torch.empty(0, dtype=torch.uint8).set_(storage))


def _stored(reference: bytes) -> torch.Tensor:
    """The bytes that a handle's reference to the object store stands for, not copied."""
    ray: Any = importlib.import_module("ray")
    try:
        return bytes_of(ray.get(ray.cloudpickle.loads(reference)))
    except ray.exceptions.RayError as error:
        raise SharingError(
            f"the problem is no longer in the object store: {' '.join(str(error).split())[:200]} "
            "Keep the handle, and the connection to Ray, as long as there are workers."
        ) from error


def bytes_of(arrays: NDArray[np.uint8]) -> torch.Tensor:
    """Bytes for `read_arrays`, not copied; they may be read-only, as nothing is written to them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of arrays that are read-only
        return torch.from_numpy(arrays)


def read_arrays(rest: bytes, raw: torch.Tensor) -> PruningProblem:
    """The problem of `write_arrays`, around the bytes of its arrays, which are not copied.

    Args:
        rest: the problem without its arrays.
        raw: (n_bytes,) uint8, what was written to the file.
    """
    problem: PruningProblem = _Unpickler(io.BytesIO(rest), raw).load()
    return problem
