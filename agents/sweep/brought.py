"""Run folders on machines that do not see the sweep's own folder: sent there, and brought back.

There each try of a run has a folder of its own, in one for temporary files. It is brought back when
the try has ended, and removed when it is here. Which try of a run is its last one is kept in a
hidden folder of the sweep's, by which machines that see it are known, too; a sweep that was killed
leaves it, and the next one goes on with it.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import uuid
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agents.errors import AgentsError, FileError, RunFolderError
from agents.files import is_partial, make_folder, read_json, write_json
from agents.locking import locked_folder
from agents.ray_machines import travelling
from agents.runs.folder import RunFolder

_OLD = ".old"  # ends the name of a folder that is replaced
ANSWER_S = 120.0  # without any answer of the machines that were asked

# -- on a machine ----------------------------------------------------------------------------------


def place_of(token: str) -> Path:
    """Where tries of a sweep lie on this machine.

    Args:
        token: Name that no other sweep has.
    """
    return Path(tempfile.gettempdir()) / token


def new_place(token: str, name: str) -> Path:
    """Where a new try is to lie on this machine, in a folder that is nobody else's.

    Args:
        token: See `place_of`.
        name: Of the try.

    Raises:
        OSError: If there is no such folder, and it cannot be made.
    """
    place = place_of(token)
    place.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and place.stat().st_uid != os.getuid():
        raise FileError(f"{place} is another user's: remove it.")
    return place / name


def node_here() -> str:
    """What Ray calls this machine."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def packed(path: Path) -> bytes:
    """A folder as one archive; nothing where it is empty, or not there."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    files = [file for file in files if not is_partial(file.name)]
    if not files:
        return b""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to(path))
    return stream.getvalue()


def unpack(content: bytes, path: Path, partial: Path) -> None:
    """Put what `packed` gave in the place of a folder, unless the run has come further there.

    Nothing changes where it gave nothing.

    Args:
        content: What it gave.
        path: The folder.
        partial: Where it is written first, on the same disk.

    Raises:
        OSError: If it cannot be written; the folder is as it was.
    """
    if not content:
        return
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(partial)
        if path.exists() and _reached(path) > _reached(partial):
            shutil.rmtree(partial, ignore_errors=True)
        else:
            _replace(path, partial)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace(path: Path, partial: Path) -> None:
    old = partial.with_name(f"{partial.name}{_OLD}")
    shutil.rmtree(old, ignore_errors=True)  # of a process that was killed here
    if not path.exists():
        partial.replace(path)
        return
    path.rename(old)
    try:
        partial.replace(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _reached(path: Path) -> tuple[int, bool]:
    """Timesteps of a run's checkpoint, -1 without one; whether it is finished."""
    from agents.runs.checkpoint import Checkpoint

    folder, steps = RunFolder(path), -1
    with suppress(AgentsError):
        steps = Checkpoint.read(folder.checkpoint).num_timesteps
    return steps, folder.result.exists()


def tries_here(token: str) -> list[str]:
    """Names of the tries that lie on this machine."""
    return sorted(one.name for one in place_of(token).glob("*"))


def fetched(token: str, name: str) -> bytes:
    """A try that lies on this machine; it stays there."""
    return packed(place_of(token) / name)


def removed(token: str, name: str) -> None:
    """Remove a try from this machine."""
    place = place_of(token)
    shutil.rmtree(place / name, ignore_errors=True)
    with suppress(OSError):  # others may be in it
        place.rmdir()


# -- where the sweep runs --------------------------------------------------------------------------


class Tries:
    """The last try of each run of which something may lie on a machine.

    Args:
        out: The sweep's folder.

    Raises:
        RunFolderError: If the file that holds them is damaged.

    Attributes:
        folder: The hidden folder; its name is the token of `place_of`.
        last: Name of the last try, by run.
    """

    def __init__(self, out: Path) -> None:
        found = [path for path in sorted(out.glob(".sweep-*")) if path.is_dir()]
        self.folder = found[0] if found else out / f".sweep-{uuid.uuid4().hex}"
        make_folder(self.folder)
        self._file = self.folder / "tries.json"
        self.last: dict[str, str] = {}
        if self._file.exists():
            self.last = read_json(self._file, RunFolderError)
        for run, name in self.last.items():  # where `unpack` was killed
            old = self.folder / f"{name}{_OLD}"
            if old.exists() and not (out / run).exists():
                old.rename(out / run)

    def begin(self, run: str) -> str:
        """A new try of a run; what is found of those before it is out of date.

        Raises:
            FileError: If that cannot be written down.
        """
        name = uuid.uuid4().hex
        write_json(self._file, {**self.last, run: name})
        self.last[run] = name
        return name

    def end(self, run: str) -> None:
        """The run is here: nothing that lies on a machine is newer."""
        self.last.pop(run, None)
        with suppress(OSError):  # one too many is looked for once more
            write_json(self._file, self.last)

    def close(self) -> None:
        """Remove the hidden folder, unless it says where to look the next time."""
        if not self.last:
            shutil.rmtree(self.folder, ignore_errors=True)


class Bringer:
    """Brings tries of runs back from the machines of a cluster.

    Whatever goes wrong is said, and left on its machine: the next sweep brings it.

    Args:
        ray: The module, connected.
        out: The sweep's folder.
        tries: Of its runs.

    Attributes:
        is_apart: Whether there is a machine that does not see the sweep's folder.
    """

    def __init__(self, ray: Any, out: Path, tries: Tries) -> None:
        self._ray, self._out, self._tries = ray, out, tries
        self.is_apart = False
        travelling(ray, __name__)  # to machines with other versions, too

    def bring(self, run: str, node: str) -> str:
        """Bring a run back from the machine on which it has ended; gives what went wrong."""
        return "; ".join(self._bring({self._tries.last[run]: (run, node)}))

    def collect(self, run: str | None = None) -> set[str]:
        """Bring back what tries have left on any machine that were broken off.

        Args:
            run: Whose; None = all, as nothing runs any more. What is out of date is removed then.

        Returns:
            Runs that are not here: a machine that is alive holds them, or does not say so.
        """
        wanted = {name: one for one, name in self._tries.last.items() if run in (None, one)}
        held = set(wanted.values())
        try:
            token = self._tries.folder.name
            found: dict[str, str] = {}  # machines may share a disk
            faults, silent = [], set()
            calls = {self._call(node, tries_here, token): node for node in self._alive()}
            for node, names, error in self._answers(calls):
                found.update(dict.fromkeys(names or (), node))
                if error is not None:
                    faults.append(_in_words(error))
                    silent |= {node} if self._may_hold(error) else set()
            faults += self._bring(
                {name: (wanted[name], node) for name, node in found.items() if name in wanted}
            )
            alive = self._alive() if faults else set()  # a machine may be lost meanwhile
            held = {
                one
                for name, one in wanted.items()
                if one in self._tries.last and alive & ({found[name]} if name in found else silent)
            }
            if run is None:
                self._remove({n: node for n, node in found.items() if n not in wanted})
        except Exception as error:  # whatever Ray raises where the cluster is lost
            faults = [_in_words(error)]
        if faults:
            warnings.warn(
                "machines of the cluster may hold runs that could not be brought back; the same "
                f"command tries it again: {faults[0]}",
                stacklevel=2,
            )
        return held

    def _alive(self) -> set[str]:
        return {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}

    def _may_hold(self, error: Any) -> bool:
        """Whether a machine that did not say what it holds may hold a run: it can run our code."""
        is_raised = isinstance(error, self._ray.exceptions.RayTaskError)
        return not is_raised or isinstance(error.cause, OSError)

    def _bring(self, found: Mapping[str, tuple[str, str]]) -> list[str]:
        """Bring tries by name, with their run and machine; gives what failed.

        Of each machine one at a time, as it is packed in memory; none more where one is too late.
        """
        self.is_apart = self.is_apart or bool(found)
        faults, left, late = [], dict(found), set[str]()
        while left:
            turn = {node: name for name, (_, node) in left.items() if node not in late}
            faults += self._bring_turn({name: left.pop(name) for name in turn.values()}, late)
            left = {name: one for name, one in left.items() if one[1] not in late}
        return faults

    def _bring_turn(self, found: Mapping[str, tuple[str, str]], late: set[str]) -> list[str]:
        """Fetch, write, remove; adds to ``late`` machines that took too long."""
        token = self._tries.folder.name
        faults, here = [], {}
        calls = {self._call(node, fetched, token, name): name for name, (_, node) in found.items()}
        for name, content, error in self._answers(calls):
            run, node = found[name]
            if error is None:
                path = self._out / run
                try:
                    if path.exists():
                        with locked_folder(path):  # nobody works in it
                            pass
                    unpack(content, path, self._tries.folder / name)
                except (OSError, RunFolderError, zipfile.BadZipFile) as raised:
                    error = raised
            if error is not None:
                faults.append(f"{run}: {_in_words(error)}")
                late |= {node} if isinstance(error, TimeoutError) else set()
            else:
                self._tries.end(run)
                here[name] = node
        self._remove(here)
        return faults

    def _remove(self, found: Mapping[str, str]) -> None:
        token = self._tries.folder.name
        calls = {self._call(node, removed, token, name): name for name, node in found.items()}
        for _ in self._answers(calls):  # what stays is out of date, and known to be
            pass

    def _call(self, node: str, function: Any, *given: str) -> Any:
        """Have a machine do something, beside its work; gives what will be the answer."""
        place = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            node, soft=False
        )
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": place}
        return self._ray.remote(function).options(**options).remote(*given)

    def _answers(self, calls: dict[Any, str]) -> Iterator[tuple[str, Any, Exception | None]]:
        """Answers as they come, with what went wrong; calls that take too long are cancelled.

        Calls that have answered are forgotten, so that Ray frees what they gave.
        """
        while calls:
            ready, _ = self._ray.wait(list(calls), timeout=ANSWER_S, fetch_local=False)
            for answer in ready:
                key = calls.pop(answer)
                try:
                    value = self._ray.get(answer, timeout=ANSWER_S)
                except self._ray.exceptions.RayError as error:
                    yield key, None, error
                else:
                    yield key, value, None
            if not ready:
                for answer, key in calls.items():
                    with suppress(Exception):
                        self._ray.cancel(answer, force=True)
                    yield key, None, TimeoutError(f"no answer within {ANSWER_S:g} s")
                return


def _in_words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__
