"""Faults of exact tables: damaged files, makes that are stopped, disks that are full."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from commands import Ended
from damage import DAMAGES, VALUES, places
from scene import KILLED, OK, STOPPED, WRONG, Scene, check_ended

Happen = Callable[[Scene], None]
MAKE = ("prune_gym.tables", "make", "--out", "t.npz", "--level", "0.25", "--level", "1")
SMALL = (*MAKE, "--network", "small", "--level", "0.5")  # nine pieces of 729 networks
INT, KILL = int(signal.SIGINT), int(signal.SIGKILL)
SIGNALS = {"Ctrl-C": (INT, STOPPED), "SIGKILL": (KILL, KILLED)}
NOWHERE = ("/proc/t.npz", "/dev/null/t.npz", "text/t.npz", f"{'x' * 300}.npz", "loop/t.npz", "")


def _tiny(scene: Scene) -> list[str]:
    given = ("--network", "tiny:cli_network", "--dataset", "tiny:cli_dataset")
    return [*MAKE, *given, "--weights", str(scene.weights)]


def _arrays(file: Path) -> dict[str, Any]:
    with np.load(file) as content:
        return dict(content)


def _whole(scene: Scene, kind: str) -> Path:
    """A table that nothing happened to; made once."""
    if kind not in scene.made:
        folder = scene.fresh()
        words = SMALL if kind == "small table" else _tiny(scene)
        check_ended(scene.run(*words, folder=folder), [OK])
        scene.made[kind] = folder
    return scene.made[kind] / "t.npz"


# -- files -----------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Scene, Path], Ended]] = {
    "show": lambda s, f: s.run("prune_gym.tables", "show", "t.npz", folder=f),
    "gym.make": lambda s, f: s.run("asked", "table", repr({"table": "t.npz"}), folder=f),
}


def _read(reader: str, spoil: Callable[[Path], None], codes: list[int]) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        file = folder / "t.npz"
        file.write_bytes(_whole(scene, "tiny table").read_bytes())
        spoil(file)
        check_ended(READERS[reader](scene, folder), codes)
        assert not scene.canary.exists(), "something was executed"

    return happen


def _with_facts(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        arrays = _arrays(file)
        facts = json.loads(arrays["facts"].tobytes())
        change(facts)
        arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        np.savez(file, **arrays)

    return spoil


def _another_value(seed: float) -> Callable[[Path], None]:
    def change(facts: dict[str, Any]) -> None:
        draw = random.Random(seed)
        *way, last = draw.choice(places(facts))
        for key in way:
            facts = facts[key]
        facts[last] = draw.choice(VALUES)

    return _with_facts(change)


def _another_array(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        arrays = _arrays(file)
        changed = change(arrays.pop(name))
        np.savez(file, **arrays, **({} if changed is None else {name: changed}))

    return spoil


def _files(draw: random.Random) -> Iterator[tuple[str, Happen]]:
    for how, damage in DAMAGES.items():
        seed, reader = draw.random(), draw.choice(list(READERS))

        def spoil(file: Path, damage: Any = damage, seed: float = seed) -> None:
            damage(file, random.Random(seed))

        yield f"a table {how}, then {reader}", _read(reader, spoil, [OK, WRONG])
    for version in (0, 2, "1", None):
        change = _with_facts(lambda facts, version=version: facts.update(format=version))
        yield f"a table of version {version!r}", _read("show", change, [WRONG])
    for name in ("format", "groups", "n_examples", "counted", "digest", "arguments"):
        missing = _with_facts(lambda facts, name=name: facts.pop(name))
        yield f"a table without {name}", _read("gym.make", missing, [WRONG])
    for index in range(20):
        reader = draw.choice(list(READERS))
        words = f"another value in a table, number {index}, then {reader}"
        yield words, _read(reader, _another_value(draw.random()), [OK, WRONG])
    for name in ("facts", "scores", "right", "constant", "linear", "quadratic", "measured"):
        for how, change_array in (
            ("missing", lambda array: None),
            ("of objects", lambda array: np.array([object()])),
            ("cut", lambda array: array.ravel()[:-1] if array.size else np.zeros(1)),
        ):
            spoiled = _another_array(name, change_array)
            yield f"{name} of a table {how}", _read(draw.choice(list(READERS)), spoiled, [WRONG])


# -- makes -----------------------------------------------------------------------------------------


def _goes_on(scene: Scene, folder: Path, kind: str = "small table") -> None:
    """The same command makes the table that it should have made, and leaves nothing else."""
    words = SMALL if kind == "small table" else _tiny(scene)
    check_ended(scene.run(*words, folder=folder), [OK])
    found, expected = _arrays(folder / "t.npz"), _arrays(_whole(scene, kind))
    assert all(np.array_equal(found[name], own) for name, own in expected.items())
    assert not (folder / "t.partial").exists()


def _stopped(name: str, **when: Any) -> Happen:
    number, code = SIGNALS[name]

    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        ended = scene.run(*SMALL, folder=folder, fault={**when, "signals": [number]})
        check_ended(ended, [OK, code])
        if code == STOPPED and ended.code == STOPPED:
            assert "the same command goes on with it" in ended.output
        _goes_on(scene, folder)

    return happen


def _full(limit: int) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        ended = scene.run(*SMALL, folder=folder, limits={"RLIMIT_FSIZE": limit})
        check_ended(ended, [OK, WRONG])
        _goes_on(scene, folder)

    return happen


def _no_space(moment: str, count: int, number: int) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        fault = {"moment": moment, "count": count, "error": number, "lasts": True}
        check_ended(scene.run(*_tiny(scene), folder=folder, fault=fault), [OK, WRONG])
        _goes_on(scene, folder, "tiny table")

    return happen


def _nowhere(out: str) -> Happen:
    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        (folder / "text").write_text("a file")
        (folder / "loop").symlink_to("loop")
        ended = scene.run(*_tiny(scene), "--out", out, folder=folder)
        check_ended(ended, [WRONG])
        assert sorted(os.listdir(folder)) == ["loop", "text"]

    return happen


def _damaged_partial(how: str, seed: float) -> Happen:
    """What a stopped make goes on with is damaged: it begins anew, or says so in a line."""

    def happen(scene: Scene) -> None:
        folder = scene.fresh()
        fault = {"moment": "a piece of a table", "count": 5, "signals": [KILL]}
        scene.run(*SMALL, folder=folder, fault=fault)
        DAMAGES[how](folder / "t.partial", random.Random(seed))
        ended = scene.run(*SMALL, folder=folder)
        check_ended(ended, [OK, WRONG])
        if ended.code == OK:
            found, expected = _arrays(folder / "t.npz"), _arrays(_whole(scene, "small table"))
            assert np.array_equal(found["right"], expected["right"])

    return happen


def table_faults(draw: random.Random) -> Iterator[tuple[str, Happen]]:
    """Names of faults, and what lets each happen."""
    yield from _files(draw)
    for name in SIGNALS:
        for moment, most in (
            ("a piece of a table", 9),
            ("opening a file for writing", 3),
            ("replacing a file", 1),
        ):
            count = draw.randint(1, most)
            words = f"{name} in a make, within {moment}, {count}"
            yield words, _stopped(name, moment=moment, count=count)
    for _ in range(4):
        limit = int(10 ** draw.uniform(1.0, 4.3))
        yield f"a make with no file above {limit} bytes", _full(limit)
    for moment in ("opening a file for writing", "replacing a file"):
        for number in (errno.ENOSPC, errno.EROFS):
            count = draw.randint(1, 2)
            words = f"{errno.errorcode[number]} in a make when {moment}, {count}"
            yield words, _no_space(moment, count, number)
    for out in NOWHERE:
        yield f"make --out {out[:20]!r}", _nowhere(out)
    for how in draw.sample(list(DAMAGES), 6):
        yield f"what a make goes on with {how}", _damaged_partial(how, draw.random())
