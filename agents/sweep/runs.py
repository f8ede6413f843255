"""A grid of trainings out of a small file, one task of a Ray cluster for each run.

``prune-gym sweep FILE --out FOLDER --workers N`` trains every combination. Each run is an ordinary
run folder in ``FOLDER``; the same command goes on with a sweep that was stopped: what is finished
is not run again, what was broken off goes on from its checkpoint.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from agents.errors import AgentsError, FileError, InvalidValueError, RunFolderError
from agents.files import make_folder, read_json
from agents.locking import locked_folder
from agents.ray_tasks import Cluster, Done, in_cluster, run_tasks
from agents.runs.folder import RunConfig, RunFolder
from agents.sweep.brought import Bringer, Tries, new_place, node_here, packed, unpack

MOST_RUNS = 100_000
_LISTS = ("wrappers",)  # fields that are lists themselves
_MAPPINGS = ("env_kwargs", "overrides")
_HELD = (
    "what there is of it may still be on its machine, and could not be brought back; the same "
    "command tries it again."
)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        config: what is trained.
    """

    name: str
    config: RunConfig


def read_sweep(path: Path) -> list[SweepRun]:
    """The runs of a sweep's file.

    The file holds a JSON object of fields of `RunConfig`. A list stands for a choice: there is a
    run for every combination. Arguments of the environment and of the algorithm are
    ``"env_kwargs.NAME"`` and ``"overrides.NAME"``.

    Raises:
        InvalidValueError: If it is no such file (names the field).
    """
    return sweep_runs(read_json(path, InvalidValueError), str(path))


def sweep_runs(grid: Mapping[str, Any], where: str = "the sweep") -> list[SweepRun]:
    """The runs of a grid; see `read_sweep`.

    Args:
        grid: Values, or lists of values, by field.
        where: The file, for messages.

    >>> grid = {"algo": ["ppo_lag", "cpo"], "env": "agents.toy:BudgetToy-v0", "seed": [0, 1]}
    >>> runs = sweep_runs(grid)
    >>> [run.name for run in runs]
    ['algo=ppo_lag,seed=0', 'algo=ppo_lag,seed=1', 'algo=cpo,seed=0', 'algo=cpo,seed=1']
    """
    from agents.zoo.make import find_agent

    known = [field.name for field in fields(RunConfig)]
    choices: dict[str, list[Any]] = {}
    for name, value in grid.items():
        field, _, argument = name.partition(".")
        if field not in known or (bool(argument) and field not in _MAPPINGS):
            raise InvalidValueError(
                f"{where}: {name[:80]!r} is no field of a run; it must be one of "
                f"{', '.join(known)}, or env_kwargs.NAME, overrides.NAME."
            )
        if value == [] and field not in _LISTS:
            raise InvalidValueError(f"{where}: {name!r} is an empty list; give it a value.")
        is_choice = isinstance(value, list) and (
            field not in _LISTS or all(isinstance(one, list) for one in value)
        )
        choices[name] = value if is_choice and value else [value]
    for name in ("algo", "env"):
        if name not in choices:
            raise InvalidValueError(f"{where}: {name!r} is missing.")
    runs = []
    for chosen in itertools.product(*choices.values()):
        given = dict(zip(choices, chosen, strict=True))
        spec = find_agent(str(given["algo"])).tuned_for(str(given["env"]).rpartition(":")[2])
        config = _config({"timesteps": spec.timesteps, "n_envs": spec.n_envs, **given}, where)
        varied = [name for name, values in choices.items() if len(values) > 1]
        runs.append(SweepRun(_name(given, varied or ["algo", "seed"], config), config))
        if len(runs) > MOST_RUNS:
            raise InvalidValueError(f"{where}: more than {MOST_RUNS:,} runs; name fewer values.")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidValueError(f"{where}: two runs are called {twice!r}; give each value once.")
    return runs


def _config(given: Mapping[str, Any], where: str) -> RunConfig:
    values: dict[str, Any] = {}
    for name, value in given.items():
        field, _, argument = name.partition(".")
        if argument:
            values.setdefault(field, {})[argument] = value
        elif field in _MAPPINGS and isinstance(value, Mapping):
            values[field] = {**value, **values.get(field, {})}
        else:
            values[field] = tuple(value) if field in _LISTS else value
    try:
        config = RunConfig(**values)
        config.check_numbers()
        json.dumps({**vars(config)}, default=dict)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"{where}: {error}") from error
    return config


def _name(given: Mapping[str, Any], varied: list[str], config: RunConfig) -> str:
    """``algo=ppo_lag,seed=0``: what tells a run from the others, as the name of a folder."""
    parts = []
    for name in varied:
        value = given.get(name, getattr(config, name, ""))
        text = value if isinstance(value, str) else json.dumps(value)
        parts.append(f"{name.rpartition('.')[2]}={text}")
    return re.sub(r"[^\w.,=+-]+", "_", ",".join(parts))[:200]


# -- running them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepOutcome:
    """What became of a run.

    Attributes:
        run: The run.
        words: Its result, or what went wrong.
        is_finished: Whether it has a result.
    """

    run: SweepRun
    words: str
    is_finished: bool


def sweep(
    runs: list[SweepRun],
    out: Path,
    cluster: Cluster,
    *,
    trust: bool = False,
    on_start: Callable[[str], None] = lambda name: None,
) -> Iterator[SweepOutcome]:
    """Train what is not finished yet; gives every run as it ends, those that were there first.

    A run that raises is told of and left; the others go on. A task whose process or machine died
    is repeated, and goes on from the run's checkpoint, if that is not lost with the machine. A run
    that may lie on a machine which is alive, and cannot be brought back, is told of and left. When
    a stop is asked for, what has ended is given, and the rest ended.

    Args:
        runs: All of them.
        out: The folder of their folders, on storage that all machines share, or on this one only:
            then runs are brought back when they end.
        cluster: Where, and how many at once.
        trust: Whether code that folders name may run.
        on_start: Called with the name of a run before it is handed to the cluster.

    Raises:
        RunFolderError: If a folder holds another run, or somebody else works in ``out``.
        ClusterError: If there is no such cluster.
    """
    make_folder(out)
    ahead = yield from _finished_before(runs, out)
    if not ahead:
        return
    with locked_folder(out), in_cluster(cluster) as ray:
        tries = Tries(out)
        bringer = Bringer(ray, out, tries)
        if tries.last:  # of a sweep that was killed
            held = bringer.collect()
            ahead = yield from _finished_before(ahead, out)
            yield from (SweepOutcome(run, _HELD, False) for run in ahead if run.name in held)
            ahead = [run for run in ahead if run.name not in held]
        work = _Work(out, bringer, tries, on_start)
        try:
            work.trusted = {run.name for run in ahead if trust or _is_new(run, out)}
            while ahead:
                ahead = yield from work.run_all(ahead, cluster)
        finally:
            if tries.last or bringer.is_apart:
                bringer.collect()
            tries.close()


def _finished_before(
    runs: list[SweepRun], out: Path
) -> Generator[SweepOutcome, None, list[SweepRun]]:
    """Give what is finished; returns the others."""
    ahead: list[SweepRun] = []
    for run in runs:
        if _is_finished(out / run.name, run.config):
            yield SweepOutcome(run, "finished before", is_finished=True)
        else:
            ahead.append(run)
    return ahead


def _is_new(run: SweepRun, out: Path) -> bool:
    """Whether the run's folder will be of this sweep: what it holds is what is asked for here."""
    return not os.path.lexists(out / run.name)


def _is_finished(path: Path, config: RunConfig) -> bool:
    """Whether a run is there with its result; raises where another one is."""
    if not os.path.isfile(RunFolder(path).config):
        return False
    folder, there = RunFolder.open(path)
    if replace(there, timesteps=config.timesteps) != _plain(config):
        raise RunFolderError(
            f"{path} holds a run with other settings: name another folder with --out, or remove it."
        )
    if not folder.result.exists():
        return False
    from agents.runs.checkpoint import Checkpoint

    # it takes whole rollouts, and may have more than it was asked for
    asked_before = there.timesteps >= config.timesteps
    return asked_before or Checkpoint.read(folder.checkpoint).num_timesteps >= config.timesteps


def _plain(config: RunConfig) -> RunConfig:
    """The configuration as it comes back from a file."""
    values = json.loads(json.dumps(vars(config), default=list))
    return RunConfig(**{**values, "wrappers": tuple(values["wrappers"])})


class _Work:
    """Runs on their way to the cluster, and back.

    Attributes:
        trusted: Names of runs that may run code which their folders name.
    """

    def __init__(
        self, out: Path, bringer: Bringer, tries: Tries, on_start: Callable[[str], None]
    ) -> None:
        self.out, self._bringer, self._tries = out, bringer, tries
        self._on_start = on_start
        self._held: set[str] = set()
        self.trusted: set[str] = set()

    def run_all(
        self, runs: list[SweepRun], cluster: Cluster
    ) -> Generator[SweepOutcome, None, list[SweepRun]]:
        """Give runs as they end; returns those that machines want which were not sent to them."""
        wanted: list[SweepRun] = []

        def make(index: int) -> _Task:
            return self._task(runs[index])

        def on_death(index: int) -> None:
            self._held |= self._bringer.collect(runs[index].name)

        with closing(run_tasks(make, len(runs), cluster, on_death=on_death)) as all_done:
            for done in all_done:
                outcome = self._ended(done, runs[done.index])
                if outcome is None:
                    wanted.append(runs[done.index])
                else:
                    yield outcome
        return wanted

    def _task(self, run: SweepRun) -> _Task:
        """A try of a run, with what is there of it by now, if there may be no other way to it.

        Raises:
            OSError: If that cannot be read, or the try not be written down, or a machine holds what
                there is.
        """
        if run.name in self._held:
            raise FileError(_HELD)
        self._on_start(run.name)
        path = self.out / run.name
        sent = packed(path) if self._bringer.is_apart or not path.exists() else None
        out, token = str(self.out.resolve()), self._tries.folder.name
        return _Task(run, out, token, self._tries.begin(run.name), run.name in self.trusted, sent)

    def _ended(self, done: Done, run: SweepRun) -> SweepOutcome | None:
        if run.name in self._held:
            return SweepOutcome(run, f"its process died; {_HELD}", is_finished=False)
        if done.error is not None:
            return SweepOutcome(run, done.error, is_finished=False)
        ended: _Ended = done.value
        if ended.node is None:
            self._tries.end(run.name)
            return SweepOutcome(run, ended.words, ended.is_finished)
        self._bringer.is_apart = True
        if ended.is_wanted:
            return None
        fault = self._bringer.bring(run.name, ended.node)
        if fault:
            words = f"{ended.words}; it is still on its machine, and could not be brought back"
            return SweepOutcome(run, f"{words}: {fault}.", is_finished=False)
        if ended.is_finished and not _is_finished(self.out / run.name, run.config):
            words = f"{ended.words}; it came back without its result, and has to be trained again."
            return SweepOutcome(run, words, is_finished=False)
        return SweepOutcome(run, ended.words, ended.is_finished)


@dataclass(frozen=True)
class _Ended:
    """What a task has to say.

    Attributes:
        words: See `SweepOutcome`.
        is_finished: See `SweepOutcome`.
        node: On which the run lies; None where it lies in the sweep's folder.
        is_wanted: Whether nothing was done, for want of what is there of the run.
    """

    words: str = ""
    is_finished: bool = False
    node: str | None = None
    is_wanted: bool = False


@dataclass(frozen=True)
class _Task:
    """A try of a run; called on a machine.

    Attributes:
        run: The run.
        out: The sweep's folder, where the machine sees it.
        token: Name of a folder in it, by which it is known.
        name: Of the try.
        trust: See `sweep`.
        sent: What is there of the run, for machines that do not see it; None = it was not sent.
    """

    run: SweepRun
    out: str
    token: str
    name: str
    trust: bool
    sent: bytes | None

    def __call__(self) -> _Ended:
        """Train; an error is words, so that the run is brought back and the others go on."""
        path, node = Path(self.out) / self.run.name, None
        if not _is_seen(os.path.join(self.out, self.token)):
            node = node_here()
            if self.sent is None:
                return _Ended(node=node, is_wanted=True)
        try:
            if node is not None:
                path = new_place(self.token, self.name)
                unpack(self.sent or b"", path, path.with_name(f"{self.name}.partial"))
            return _Ended(_trained(self.run.config, path, self.trust), True, node)
        except AgentsError as error:
            said = str(error)
        except Exception as error:  # of the environment, often
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return _Ended(f"machine {socket.gethostname()}: {said}", False, node)


def _is_seen(token: str) -> bool:
    """Whether this machine sees the sweep's folder, in which the hidden one is."""
    return os.path.isdir(token)


def _trained(config: RunConfig, path: Path, trust: bool) -> str:
    from agents.evaluation import Evaluation
    from agents.runs.training import Training

    if _is_finished(path, config):  # by a process that died then
        found = read_json(RunFolder(path).result, RunFolderError)["final"]
        limit = math.inf if found["cost_limit"] is None else found["cost_limit"]
        returns, costs, lengths = (found[name] for name in ("returns", "costs", "lengths"))
        final = Evaluation.of_episodes(returns, costs, lengths, limit)
        return f"{final.summary()} ({socket.gethostname()})"
    if os.path.isfile(RunFolder(path).config):
        training = Training.resume(path, config.timesteps, trust=trust)
    else:
        training = Training.begin(config, path)
    final = training.run()
    return f"{final.summary()} ({socket.gethostname()})"
