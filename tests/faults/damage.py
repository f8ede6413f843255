"""What is done to files of run folders: damages, other values, traps."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Spoil = Callable[[Path, random.Random], str]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path | str) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> Any:
        return open, (self.canary, "w")


def _flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes() or b"x")
    for _ in range(draw.choice((1, 3, 20))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def _cut(file: Path, draw: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content) or 1)])


def _instead(make: Callable[[Path], object]) -> Callable[[Path, random.Random], None]:
    def damage(file: Path, draw: random.Random) -> None:
        file.unlink()
        make(file)

    return damage


def _huge(file: Path) -> None:
    """A head that promises more than any memory holds."""
    if file.suffix == ".safetensors":
        head = b'{"a":{"dtype":"F32","shape":[1000000000,1000000],"data_offsets":[0,4]}}'
        file.write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 4)
    elif file.suffix == ".npz":
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("names", "sizes", "numbers", "accuracies", "costs", "bits"):
                text = "{'descr': '<f8', 'fortran_order': False, 'shape': (900000000000,), }"
                head = text.ljust(117).encode() + b"\n"
                archive.writestr(
                    f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
                )
    else:
        with file.open("wb") as sparse:
            sparse.truncate(20 * 2**30)


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "cut": _cut,
    "emptied": lambda file, draw: file.write_bytes(b"") and None,
    "bits flipped": _flip,
    "removed": lambda file, draw: file.unlink(),
    "a folder instead": _instead(lambda file: file.mkdir()),
    "a pipe instead": _instead(lambda file: os.mkfifo(file)),
    "a dangling link instead": _instead(lambda file: file.symlink_to("nowhere")),
    "a loop of links instead": _instead(lambda file: file.symlink_to(file.name)),
    "an endless device instead": _instead(lambda file: file.symlink_to("/dev/zero")),
    "noise": lambda file, draw: file.write_bytes(draw.randbytes(3000)) and None,
    "text": lambda file, draw: file.write_text("\ufeffnot \x00 what it was\n") and None,
    "huge": lambda file, draw: _instead(_huge)(file, draw),
}
# what nobody reads, or only people
_BY_PEOPLE = (".html", ".png", ".txt")


def _files(run: Path) -> list[Path]:
    found = [path for path in sorted(run.rglob("*")) if path.is_file() and not path.is_symlink()]
    return [path for path in found if path.suffix not in _BY_PEOPLE and "tfevents" not in path.name]


def damage_file(how: str, seed: float) -> Spoil:
    """One of the files of a run folder is damaged."""

    def spoil(run: Path, _: random.Random) -> str:
        draw = random.Random(seed)
        file = draw.choice(_files(run))
        DAMAGES[how](file, draw)
        return f"{file.name} {how} (seed {seed})"

    return spoil


VALUES: tuple[Any, ...] = (
    None,
    -1,
    0,
    1.5,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    True,
    "",
    "x",
    "../../../etc/passwd",
    "x" * 100_000,
    [],
    {},
    [[[]]],
    {"a": {"b": {}}},
    [0] * 1000,
    ["\x00"],
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            found += places(value, (*path, key))
    return found


def damage_json(seed: float) -> Spoil:
    """An entry of a JSON file of a run folder gets another value, or another name."""

    def spoil(run: Path, _: random.Random) -> str:
        draw = random.Random(seed)
        file = draw.choice([file for file in _files(run) if file.suffix == ".json"])
        content = json.loads(file.read_text())
        *path, key = draw.choice(places(content) or [("new",)])
        owner = content
        for step in path:
            owner = owner[step]
        value = draw.choice(VALUES)
        if isinstance(owner, dict) and draw.random() < 0.2:
            owner[f"{key} "] = owner.pop(key)
        else:
            owner[key] = value
        file.write_text(json.dumps(content))
        return f"{file.name}: {(*path, key)} is {str(value)[:40]!r} (seed {seed})"

    return spoil


# -- traps -----------------------------------------------------------------------------------------


def traps() -> list[str]:
    """Names of traps; those of agents' trainings begin with "training"."""
    return [
        "a command as budget",
        "an older command as budget",
        "a function as budget",
        "a function as network",
        "a function as network of the plan",
        "a server as network of the plan",
        "a function as dataset",
        "a function as criterion",
        "a function as recovery",
        "a pickle as every binary file",
        "modules in the folder",
        "training: a module as environment",
        "training: a wrapper",
        "training: a pickle as every binary file",
        "training: modules in the folder",
    ]


def _edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def _pickles(run: Path, canary: Path) -> None:
    bomb = pickle.dumps(Bomb(canary))
    for index, file in enumerate(_files(run)):
        if file.suffix in (".json", ".csv"):
            continue
        if file.suffix == ".zip" or index % 2:
            shutil.copy(file, spare := file.with_suffix(".spare"))
            names = zipfile.ZipFile(spare).namelist() if zipfile.is_zipfile(spare) else ["data.pkl"]
            with zipfile.ZipFile(file, "w") as archive:
                for name in dict.fromkeys([*names, "data", "data.pkl"]):
                    archive.writestr(name, bomb)
            spare.unlink()
        else:
            file.write_bytes(bomb)
    for name in ("agent.zip", "replay_buffer.pkl", "vecnormalize.pkl", "best_vecnormalize.pkl"):
        if not (run / name).exists():
            (run / name).write_bytes(bomb)


def put_trap(trap: str, run: Path, canary: Path) -> None:
    """Make something of a run folder that touches the canary if it is executed.

    Args:
        trap: one of `traps`.
        run: the folder of the run; modules are put into the one above, where commands run.
        canary: the file that is made by whatever is executed.
    """
    code = f"open({str(canary)!r}, 'w').close()\n"
    (run.parent / "trapped.py").write_text(
        f"{code}\ndef function(*args, **kwargs):\n    {code}    raise SystemExit(3)\n"
    )
    name = trap.removeprefix("training: ")
    if name == "a pickle as every binary file":
        _pickles(run, canary)
    elif name == "modules in the folder":
        for module in ("queue", "torch", "json", "numpy", "csv", "rich"):
            for folder in (run, run.parent):
                (folder / f"{module}.py").write_text(code)
    else:
        file, change = _entries(f"touch {canary} {{safetensors}}")[name]
        _edit(run / file, change)


def _entries(command: str) -> dict[str, tuple[str, Callable[[dict[str, Any]], object]]]:
    """By trap, the JSON file and what is changed in it."""
    spec = {"limit": 0.9, "command": command, "folder": "/", "name": "", "unit": ""}
    in_problem = {
        "a command as budget": ("budgets", {"params": 0.9, "touch": spec}),
        "an older command as budget": ("budgets", {f"command@/:{command}": 0.9}),
        "a function as budget": ("budgets", {"trapped:function": 0.9}),
        "a function as network": ("network", "trapped:function"),
        "a function as dataset": ("dataset", "trapped:function"),
        "a function as criterion": ("criterion", "trapped:function"),
        "a function as recovery": ("recovery", "trapped:function"),
    }
    plain = {
        "a function as network of the plan": ("plan.json", {"network": "trapped:function"}),
        "a server as network of the plan": ("plan.json", {"network": "http.server:test"}),
        "a module as environment": ("config.json", {"env": "trapped:Env-v0"}),
        "a wrapper": ("config.json", {"wrappers": ["trapped:function"]}),
    }
    found: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {}
    for trap, entry in in_problem.items():
        found[trap] = "config.json", partial(_set_in_problem, dict([entry]))
    for trap, (file, values) in plain.items():
        found[trap] = file, partial(_set, values)
    return found


def _set_in_problem(values: dict[str, Any], content: dict[str, Any]) -> None:
    content["problem"].update(values)


def _set(values: dict[str, Any], content: dict[str, Any]) -> None:
    content.update(values)
