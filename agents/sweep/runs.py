"""A grid of trainings out of a small file, one task of a Ray cluster for each run.

``prune-gym sweep FILE --out FOLDER --workers N`` trains every combination. Each run is an ordinary
run folder in ``FOLDER``; the same command goes on with a sweep that was stopped: what is finished
is not run again, what was broken off goes on from its checkpoint.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from agents.errors import AgentsError, InvalidValueError, RunFolderError
from agents.files import make_folder, read_json
from agents.ray_tasks import Cluster, Done, in_cluster, run_tasks
from agents.runs.folder import RunConfig, RunFolder
from agents.sweep.brought import collect, packed, place_of, taken, unpack

MOST_RUNS = 100_000
_LISTS = ("wrappers",)  # fields that are lists themselves
_MAPPINGS = ("env_kwargs", "overrides")


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
    runs: list[SweepRun], out: Path, cluster: Cluster, *, trust: bool = False
) -> Iterator[SweepOutcome]:
    """Train what is not finished yet; gives every run as it ends, those that were there first.

    A run that raises is told of and left; the others go on. A task whose process or machine died
    is repeated, and goes on from the run's checkpoint, if that is not lost with the machine. When a
    stop is asked for, what has ended is given, and the rest ended.

    Args:
        runs: All of them.
        out: The folder of their folders, on storage that all machines share, or on this one only:
            then runs are brought back when they end.
        cluster: Where, and how many at once.
        trust: Whether code that folders name may run.

    Raises:
        RunFolderError: If a folder holds another run.
        ClusterError: If there is no such cluster.
    """
    make_folder(out)
    ahead: list[SweepRun] = []
    for run in runs:
        if _is_finished(out / run.name, run.config):
            yield SweepOutcome(run, "finished before", is_finished=True)
        else:
            ahead.append(run)
    if not ahead:
        return
    token = out / f".sweep-{uuid.uuid4().hex}"
    tasks = [
        _Task(run, str(out.resolve()), token.name, trust or _is_new(run, out)) for run in ahead
    ]
    with in_cluster(cluster) as ray:
        token.touch()
        try:

            def bring_back(index: int) -> None:
                """What a try has left whose process died, before the next one."""
                collect(ray, token.name, out, ahead[index].name)

            with closing(run_tasks(tasks, cluster, bring_back)) as all_done:
                for done in all_done:
                    yield _ended(done, ahead[done.index], out)
        finally:
            collect(ray, token.name, out)
            with suppress(OSError):
                token.unlink()


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
    return folder.result.exists() and there.timesteps >= config.timesteps


def _plain(config: RunConfig) -> RunConfig:
    """The configuration as it comes back from a file."""
    values = json.loads(json.dumps(vars(config), default=list))
    return RunConfig(**{**values, "wrappers": tuple(values["wrappers"])})


@dataclass(frozen=True)
class _Task:
    """A run on its way; called on a machine, it gives words and what is to be brought back.

    Attributes:
        run: The run.
        out: The sweep's folder, where the machine sees it.
        token: Name of a file in it, by which it is known.
        trust: See `sweep`.
        sent: What is there of the run, for machines that do not see it.
    """

    run: SweepRun
    out: str
    token: str
    trust: bool
    sent: bytes = b""

    def __reduce__(self) -> tuple[Any, ...]:
        """For another machine, with what is there of the run by now."""
        sent = packed(Path(self.out) / self.run.name)
        return _Task, (self.run, self.out, self.token, self.trust, sent)

    def __call__(self) -> tuple[str, bool, bytes]:
        """Train; an error is words, so that the run is brought back and the others go on."""
        is_shared = _is_seen(os.path.join(self.out, self.token))
        place = Path(self.out) if is_shared else place_of(self.token)
        path = place / self.run.name
        if not is_shared and not path.exists():  # else of a try that died here
            place.mkdir(exist_ok=True)
            unpack(self.sent, path)
        try:
            words, is_finished = _trained(self.run.config, path, self.trust), True
        except AgentsError as error:
            words, is_finished = str(error), False
        except Exception as error:  # of the environment, often
            said = " ".join(str(error).split())[:500]
            words, is_finished = f"{type(error).__name__}: {said}", False
        if is_shared:
            return words, is_finished, b""
        content = taken(path)
        with suppress(OSError):  # other runs may be in it
            place.rmdir()
        return words, is_finished, content


def _is_seen(token: str) -> bool:
    """Whether this machine sees the sweep's folder, in which the file is."""
    return os.path.isfile(token)


def _trained(config: RunConfig, path: Path, trust: bool) -> str:
    from agents.runs.training import Training

    if os.path.isfile(RunFolder(path).config):
        training = Training.resume(path, config.timesteps, trust=trust)
    else:
        training = Training.begin(config, path)
    final = training.run()
    return f"{final.summary()} ({socket.gethostname()})"


def _ended(done: Done, run: SweepRun, out: Path) -> SweepOutcome:
    if done.error is not None:
        return SweepOutcome(run, done.error, is_finished=False)
    words, is_finished, brought = done.value
    unpack(brought, out / run.name)
    return SweepOutcome(run, words, is_finished)
