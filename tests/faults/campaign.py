"""The faults of the campaign: each has a kind, a name, and a function that lets it happen.

They are drawn by a seed. A function raises AssertionError where the promise of `docs/faults.md` was
not kept.
"""

from __future__ import annotations

import errno
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import TOO_LONG_S, Ended, run_anew
from damage import DAMAGES, damage_file, damage_json, put_trap, traps
from faulty import DYING, HANGING, KINDS, SPOILING
from nonsense import api_calls, command_lines
from pictures import PICTURES, make_images
from scene import (
    KILLED,
    NOTHING_FOUND,
    OK,
    SETUP,
    STOPPED,
    WRONG,
    N,
    Scene,
    check_ended,
    check_finished,
    check_goes_on,
    rows_of,
)
from table_faults import table_faults

Happen = Callable[[Scene], None]
INT, TERM, KILL = int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGKILL)
SIGNALS = {"Ctrl-C": (INT,), "SIGTERM": (TERM,), "SIGKILL": (KILL,), "Ctrl-C twice": (INT, INT)}
PAUSE = {"PAUSE": "0.04"}  # of the budget, so that a search takes a moment


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        kind: e.g. ``"signals"``.
        name: which one.
        happen: lets it happen, and checks what became of it.
    """

    kind: str
    name: str
    happen: Happen

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


# -- signals ---------------------------------------------------------------------------------------


def _check_signalled(ended: Ended, name: str) -> None:
    """It was stopped, or came to its end before; what hits Python's own end is the system's.

    So is a second Ctrl-C while Python is busy in C code.
    """
    codes = [OK, KILLED] if name == "SIGKILL" else [OK, STOPPED]
    codes += [-INT] if name == "Ctrl-C twice" else []
    is_over = any(words in ended.output for words in ("load_pruned(", "stopped", "results are in"))
    check_ended(ended, [*codes, -INT, -TERM] if is_over else codes)


def _at_a_moment(name: str, algo: str, share: float, gap_s: float) -> Happen:
    """A signal after a share of what the whole command takes."""
    numbers = SIGNALS[name]
    n = N if algo == "random" else 2 * N

    def happen(scene: Scene) -> None:
        words = scene.prune(algo, n)
        whole_s = scene.duration(algo, words)
        folder = scene.fresh()
        times = [(share * whole_s, numbers[0]), *((gap_s, number) for number in numbers[1:])]
        ended = scene.run(*words, folder=folder, variables=PAUSE, signals=times)
        _check_signalled(ended, name)
        check_goes_on(scene, folder, n, SETUP[algo])

    return happen


def _within(name: str, moment: str, count: int, algo: str = "random") -> Happen:
    """A signal that comes at the k-th of certain calls."""
    n = N if algo == "random" else 2 * N

    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        fault = {"moment": moment, "count": count, "signals": SIGNALS[name]}
        ended = scene.run(*scene.prune(algo, n), folder=folder, fault=fault)
        _check_signalled(ended, name)
        check_goes_on(scene, folder, n, SETUP[algo])

    return happen


def _while_resuming(name: str, moment: str, count: int) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.template("unfinished")
        before = rows_of(folder / "run")
        fault = {"moment": moment, "count": count, "signals": SIGNALS[name]}
        ended = scene.resume(folder, fault=fault)
        _check_signalled(ended, name)
        assert rows_of(folder / "run")[: len(before)] == before
        check_goes_on(scene, folder, N)

    return happen


def _while_training(name: str, count: int) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        words = ["agents.train", "--algo", "ppo_lag", "--env", "agents.toy:BudgetToy-v0"]
        words += ["--timesteps", "600", "--checkpoint-every", "64", "--out", "run"]
        words += ["--set", "n_steps=32"]
        fault = {"moment": "a step of training", "count": count, "signals": SIGNALS[name]}
        ended = scene.run(*words, folder=folder, fault=fault)
        _check_signalled(ended, name)
        trust = scene.trusting("agents.train")
        ended = scene.run("agents.train", "--resume", "run", *trust, folder=folder)
        check_ended(ended, [OK, WRONG] if (folder / "run" / "result.json").exists() else [OK])
        assert (folder / "run" / "result.json").is_file()

    return happen


def _while_pretraining(name: str, count: int) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        words = ["prune_gym", "pretrain", "tiny:cli_network", "--dataset", "tiny:cli_dataset"]
        words += ["--epochs", "3", "--out", "weights.safetensors"]
        fault = {"moment": "a step of training", "count": count, "signals": SIGNALS[name]}
        _check_signalled(scene.run(*words, folder=folder, fault=fault), name)
        was_over = (folder / "weights.json").exists()  # it hit the last step
        ended = scene.run(*words, "--resume", folder=folder)
        if was_over:
            check_ended(ended, [WRONG])
        elif ended.code == WRONG:  # its state was not saved yet: the error says so
            check_ended(ended, [WRONG])
            ended = scene.run(*words, folder=folder)
            check_ended(ended, [OK])
        assert (folder / "weights.safetensors").is_file()

    return happen


def _while_importing(name: str, delay_s: float) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        ended = run_anew(
            *scene.prune(), folder=folder, signals=[(delay_s, n) for n in SIGNALS[name]]
        )
        assert ended.code in (OK, STOPPED, KILLED, -TERM, -INT), ended
        assert not ended.hung
        assert not (folder / "run").exists() or (folder / "run" / "config.json").exists()

    return happen


def signals(draw: random.Random) -> Iterator[Fault]:
    """Signals at random moments, and within named ones."""
    for name in SIGNALS:
        for algo, count in (("random", 6), ("ppo_lag", 4)):
            for _ in range(count):
                share, gap_s = draw.uniform(0.05, 1.0), draw.uniform(0.0, 0.2)
                words = f"{name} at {share:.2f} of a search by {algo}"
                yield Fault("signals", words, _at_a_moment(name, algo, share, gap_s))
        for moment, most in (
            ("opening a file for writing", 20),
            ("replacing a file", 12),
            ("a step of training", 6),
            ("drawing a picture", 3),
            ("a forward", 40),
        ):
            for _ in range(2):
                count = draw.randint(1, most)
                words = f"{name} within {moment}, {count}"
                yield Fault("signals", words, _within(name, moment, count))
                words = f"{name} within {moment}, {count}, while resuming"
                if _ == 0:
                    yield Fault("signals", words, _while_resuming(name, moment, count))
        count = draw.randint(1, 40)
        yield Fault("signals", f"{name} in a training of an agent", _while_training(name, count))
        count = draw.randint(1, 3)
        yield Fault("signals", f"{name} in a pretraining", _while_pretraining(name, count))
        delay_s = draw.uniform(1.0, 4.0)
        yield Fault("signals", f"{name} after a start", _while_importing(name, delay_s))


# -- files, trust ----------------------------------------------------------------------------------

_READERS: dict[str, Callable[[Scene, Path], Ended]] = {
    "load_pruned": lambda s, f: s.run("asked", "pruned", repr({"folder": "run"}), folder=f),
    "evaluate": lambda s, f: s.run(
        "prune_gym", "evaluate", "run", *s.trusting("prune_gym", "evaluate"), folder=f
    ),
    "pick": lambda s, f: s.run(
        *("prune_gym", "pick", "run", "--budget", "params=0.8", "--finetune-steps", "2"),
        *s.trusting("prune_gym", "pick"),
        folder=f,
    ),
    "export": lambda s, f: s.run(
        *("prune_gym", "export", "run", "--format", "safetensors", "--out", "small"),
        *s.trusting("prune_gym", "export"),
        folder=f,
    ),
    "resume": lambda s, f: s.resume(f),
    "lengthen": lambda s, f: s.resume(f, "--timesteps", "36"),
}
_AGENT_READERS: dict[str, Callable[[Scene, Path], Ended]] = {
    "enjoy": lambda s, f: s.run(
        "agents.enjoy", "run", "--episodes", "1", *s.trusting("agents.enjoy"), folder=f
    ),
    "resume": lambda s, f: s.run(
        *("agents.train", "--resume", "run", "--timesteps", "128"),
        *s.trusting("agents.train"),
        folder=f,
    ),
    "compare": lambda s, f: s.run("agents.compare", "run", "--reps", "20", folder=f),
}


def _read(template: str, reader: str, spoil: Callable[[Path, random.Random], str]) -> Happen:
    """Something is done to the files of a run, and the run is read."""
    agents = template in ("training", "normalised")
    readers = _AGENT_READERS if agents else _READERS

    def happen(scene: Scene) -> None:
        folder = scene.template(template)
        # the same for every order of the faults
        done = spoil(folder / "run", random.Random(f"{template} {reader} {spoil}"))
        try:
            check_ended(readers[reader](scene, folder), [OK, NOTHING_FOUND, WRONG])
            assert not scene.canary.exists(), "something was executed"
        except AssertionError as error:
            scene.canary.unlink(missing_ok=True)
            raise AssertionError(f"{done}, then {reader}: {error}") from error

    return happen


def files(draw: random.Random) -> Iterator[Fault]:
    """Damaged files of run folders."""
    for template, readers, count in (
        ("finished", _READERS, 50),
        ("unfinished", _READERS, 12),
        ("agent's", {"resume": 0, "lengthen": 0}, 8),
        ("training", _AGENT_READERS, 24),
        ("normalised", _AGENT_READERS, 8),
    ):
        for index in range(count):
            how = list(DAMAGES)[index % len(DAMAGES)]
            reader = draw.choice(list(readers))
            seed = draw.random()
            spoil = damage_file(how, seed)
            name = f"{how}, number {index} of a run ({template}), then {reader}"
            yield Fault("files", name, _read(template, reader, spoil))
    for index in range(40):
        reader = draw.choice(list(_READERS))
        name = f"another value, number {index}, then {reader}"
        yield Fault("files", name, _read("finished", reader, damage_json(draw.random())))


def trust(draw: random.Random) -> Iterator[Fault]:
    """Files that name code, or hold it."""
    for trap in traps():
        template = "training" if trap.startswith("training") else "data"
        if trap.endswith("modules in the folder"):
            yield Fault("trust", trap, _among_modules(template, trap))
            continue
        for reader in _AGENT_READERS if template == "training" else _READERS:
            yield Fault("trust", f"{trap}, then {reader}", _distrusting(template, reader, trap))


def _distrusting(template: str, reader: str, trap: str) -> Happen:
    readers = _AGENT_READERS if template == "training" else _READERS

    def happen(scene: Scene) -> None:
        folder = scene.template(template)
        put_trap(trap, folder / "run", scene.canary)
        try:
            with scene.without_trust():
                ended = readers[reader](scene, folder)
            assert not scene.canary.exists(), "it was executed"
            check_ended(ended, [OK, NOTHING_FOUND, WRONG])
        finally:
            scene.canary.unlink(missing_ok=True)

    return happen


def _among_modules(template: str, trap: str) -> Happen:
    """In a new Python, which looks for its modules."""

    def happen(scene: Scene) -> None:
        folder = scene.template(template)
        put_trap(trap, folder / "run", scene.canary)
        command = ["agents.enjoy"] if template == "training" else ["prune_gym", "evaluate"]
        try:
            ended = run_anew(*command, "run", folder=folder)
            assert not scene.canary.exists(), "it was executed"
            check_ended(ended, [OK])
        finally:
            scene.canary.unlink(missing_ok=True)

    return happen


# -- disks -----------------------------------------------------------------------------------------

_NOWHERE = (
    "/proc/run",
    "/dev/null/run",
    "/dev/full",
    "weights.txt",
    "weights.txt/run",
    "x" * 300,
    "link/run",
    "loop/run",
    "",
)


def _full(limit: int) -> Happen:
    """No file may be larger than so many bytes."""

    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        ended = scene.run(*scene.prune(), folder=folder, limits={"RLIMIT_FSIZE": limit})
        check_ended(ended, [OK, NOTHING_FOUND, WRONG, -int(signal.SIGXFSZ)])
        check_goes_on(scene, folder, N)

    return happen


def _no_space(moment: str, count: int, lasts: bool, number: int) -> Happen:
    """The k-th write finds no space, or no file system any more."""

    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        fault = {"moment": moment, "count": count, "error": number, "lasts": lasts}
        # the ledger of a budget is no file of the run: params
        ended = scene.run(*scene.prune(budget="params=0.9"), folder=folder, fault=fault)
        check_ended(ended, [OK, NOTHING_FOUND, WRONG])
        check_goes_on(scene, folder, N)

    return happen


def _nowhere(out: str, command: str) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.template("finished")
        (folder / "weights.txt").write_text("a file")
        (folder / "link").symlink_to("/proc")
        (folder / "loop").symlink_to("loop")
        words = {
            "prune": scene.prune(out=out),
            "pick": ["prune_gym", "pick", "run", "--budget", "params=0.8", "--out", out],
            "export": ["prune_gym", "export", "run", "--format", "safetensors", "--out", out],
            "pretrain": [
                "prune_gym",
                "pretrain",
                "tiny:cli_network",
                "--epochs",
                "1",
                "--out",
                out,
            ],
            "train": ["agents.train", "--algo", "ppo_lag", "--timesteps", "64", "--out", out],
        }[command]
        words += {
            "pretrain": ["--dataset", "tiny:cli_dataset"],
            "train": ["--env", "agents.toy:BudgetToy-v0"],
        }.get(command, [])
        trust_it = command in ("pick", "export")
        more = scene.trusting("prune_gym", command) if trust_it else []
        check_ended(scene.run(*words, *more, folder=folder), [OK, WRONG])
        assert (folder / "weights.txt").read_text() == "a file"

    return happen


def disks(draw: random.Random) -> Iterator[Fault]:
    """Full and unwritable disks."""
    for _ in range(12):
        limit = int(10 ** draw.uniform(1.0, 4.5))
        yield Fault("disks", f"no file above {limit} bytes", _full(limit))
    for moment, most in (("opening a file for writing", 25), ("replacing a file", 14)):
        for number in (errno.ENOSPC, errno.EIO, errno.EROFS):
            for lasts in (False, True):
                count = draw.randint(1, most)
                words = f"{errno.errorcode[number]} when {moment}, {count}{', for ever' * lasts}"
                yield Fault("disks", words, _no_space(moment, count, lasts, number))
    for command in ("prune", "pick", "export", "pretrain", "train"):
        for out in draw.sample(_NOWHERE, 3):
            yield Fault("disks", f"{command} --out {out[:20]!r}", _nowhere(out, command))


# -- budgets ---------------------------------------------------------------------------------------


def _budget(kind: str, call: int, algo: str) -> Happen:
    n = N if algo == "random" else 2 * N
    budget = "faulty:impatient" if kind in HANGING else "faulty:ledger"
    name = "impatient" if kind in HANGING else budget  # a function goes by what was typed

    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        words = scene.prune(algo, n, budget=f"{budget}=0.9")
        ended = scene.run(
            *words, folder=folder, variables={"FAULT": f"{kind}@{SETUP[algo] + call}"}
        )
        run = folder / "run"
        if kind in DYING:
            assert ended.code in (-6, -9, -11, 0), ended
            assert len(rows_of(run)) >= call - 1, f"{call - 1} judged, {len(rows_of(run))} kept"
        elif kind in SPOILING:
            check_ended(ended, [OK])
            check_finished(run, n, [])
            assert f"budget {name!r} leaves changed" in ended.output or kind == "variables"
            return
        else:
            check_ended(ended, [WRONG])
            assert f"budget {name!r}" in ended.output
            assert len(rows_of(run)) >= call - 1, f"{call - 1} judged, {len(rows_of(run))} kept"
        check_goes_on(scene, folder, n)  # others may have been judged until the error was seen

    return happen


def budgets(draw: random.Random) -> Iterator[Fault]:
    """Budgets that raise, lie, meddle, die, hang, or spoil what all share."""
    for kind in KINDS:
        call = draw.randint(1, N)
        yield Fault("budgets", f"{kind} at network {call}", _budget(kind, call, "random"))
        if kind in DYING or kind in draw.sample(list(KINDS), 12):
            call = draw.randint(N, 2 * N)
            words = f"{kind} at network {call} of an agent"
            yield Fault("budgets", words, _budget(kind, call, "ppo_lag"))


# -- images, arguments -----------------------------------------------------------------------------


def _images(kinds: list[str]) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        make_images(folder / "photos", kinds)
        call = repr({"dataset": "folder:photos@16"})
        ended = scene.run("asked", "images", call, folder=folder, too_long_s=TOO_LONG_S / 2)
        check_ended(ended, [OK, WRONG])

    return happen


def images(draw: random.Random) -> Iterator[Fault]:
    """Broken images, links and pipes in folders of images."""
    for kind in PICTURES:
        yield Fault("images", kind, _images([kind]))
    for index in range(8):
        kinds = draw.sample(list(PICTURES), 6)
        yield Fault("images", f"several at once, {index}", _images(kinds))


def _words(words: list[str], template: str) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.template(template) if template else scene.fresh()
        check_ended(scene.run(*words, folder=folder), [OK, NOTHING_FOUND, WRONG])

    return happen


def arguments(draw: random.Random) -> Iterator[Fault]:
    """Nonsense for options of commands and keywords of functions."""
    for words, template in command_lines(draw):
        short = " ".join(word if len(word) < 30 else f"{word[:20]}..." for word in words)
        yield Fault("arguments", short, _words(words, template))
    for kind, call in api_calls(draw):
        words = ["asked", kind, repr(call)]
        yield Fault("arguments", f"{kind}({str(call)[:60]})", _words(words, ""))


def tables(draw: random.Random) -> Iterator[Fault]:
    """Damaged tables, and makes that are stopped."""
    for name, happen in table_faults(draw):
        yield Fault("tables", name, happen)


def all_faults(seed: int) -> list[Fault]:
    """Every fault of the campaign."""
    makers: list[Callable[[random.Random], Iterator[Fault]]] = [
        signals,
        files,
        trust,
        disks,
        budgets,
        images,
        arguments,
        tables,
    ]
    return [fault for maker in makers for fault in maker(random.Random(f"{maker.__name__}{seed}"))]


def some_faults(seed: int, of_each: int) -> list[Fault]:
    """So many of each kind."""
    draw, chosen = random.Random(seed), []
    faults = all_faults(seed)
    for kind in dict.fromkeys(fault.kind for fault in faults):
        of_kind: list[Any] = [fault for fault in faults if fault.kind == kind]
        chosen += draw.sample(of_kind, min(of_each, len(of_kind)))
    return chosen
