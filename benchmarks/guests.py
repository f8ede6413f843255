"""Other people's constrained-RL libraries, each installed for real and trained on PruneVGG-v0.

    python benchmarks/guests.py                         # all of them, about 20 minutes
    python benchmarks/guests.py --guests omnisafe fsrl --quick

Every guest gets a virtual environment of its own below ``--folder`` (default: a temporary one).
What this Python has installed (torch, `prune_gym`) can be imported there as well, after what the
guest brings along, so little is installed twice. A program (``guest_*.py``) trains there and holds
the cost that the library reports against what the environments charged; it fails where they differ
or nothing was charged. Results go to ``benchmarks/results/guests.json``, with ``--quick`` (a
few episodes, cost at the last step only) nowhere unless ``--out`` says so. The exit code is 1
unless all went well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import prune_gym
from agents.files import write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "guests.json"
QUICK_LIMIT_S, LIMIT_S = 600, 3600

Row = dict[str, Any]


def hashable_colours(packages: Path) -> None:
    """Safety-Gymnasium has arrays as defaults of dataclasses, which Python 3.11 refuses.

    It takes any default that can be hashed, so the arrays become ones that can.
    """
    module = packages / "safety_gymnasium" / "assets" / "color.py"
    patch = (
        "\n\nclass _Hashable(np.ndarray):\n    __hash__ = object.__hash__\n\n\n"
        "COLOR = {name: np.asarray(value).view(_Hashable) for name, value in COLOR.items()}\n"
    )
    text = module.read_text(encoding="utf-8")
    if patch not in text:
        module.write_text(text + patch, encoding="utf-8")


@dataclass(frozen=True)
class Guest:
    """How a library is installed.

    Attributes:
        installs: arguments of ``pip install``, one call after the other.
        note: what is unusual about it.
        patch: is called with the folder of installed packages.
    """

    installs: tuple[str, ...]
    note: str = ""
    patch: Callable[[Path], None] | None = None


GUESTS = {
    "omnisafe": Guest(
        (
            "--no-deps omnisafe==0.5.0",
            "gdown matplotlib moviepy pandas pyyaml rich scipy seaborn tensorboard tqdm typer "
            "wandb",
        ),
        note="without its pins (gymnasium 0.28.1, pandas 2.0.3), which have no wheels for Python "
        "3.11; an empty module stands in for safety_gymnasium while it is imported",
    ),
    "fsrl": Guest(
        (
            "--no-deps fast-safe-rl==0.1.0 tianshou==0.5.1",
            "h5py numba packaging pettingzoo pyyaml tensorboard tqdm wandb",
        ),
        note="without its pins (gymnasium 0.28.1, protobuf 3.19, wandb 0.14)",
    ),
    "rllib": Guest(
        ("ray[rllib]",), note="has no constrained algorithm: PPO maximises, the cost is logged"
    ),
    "torchrl": Guest(("torchrl",)),
    "safety_gymnasium": Guest(
        (
            "--no-deps safety-gymnasium==1.0.0 gymnasium==0.29.1",
            "--no-deps gymnasium-robotics pettingzoo",
            "imageio mujoco pyyaml xmltodict",
        ),
        note="without its pins (gymnasium 0.28.1, mujoco 2.3.3, pygame 2.1.0, Python 3.10 at "
        "most); one file of it is patched, see hashable_colours in guests.py",
        patch=hashable_colours,
    ),
}


class GuestError(RuntimeError):
    """A guest that could not be installed, or did not run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--guests", nargs="+", choices=list(GUESTS), default=list(GUESTS))
    parser.add_argument("--folder", type=Path, help="where virtual environments are kept")
    parser.add_argument("--quick", action="store_true", help="a smallest run; costs are checked")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name}, nothing if --quick")
    arguments = parser.parse_args()
    out = arguments.out or (None if arguments.quick else RESULTS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        rows = {}
        for name in arguments.guests:
            rows[name] = visit(name, folder / name, arguments.quick)
            print(describe(name, rows[name]), flush=True)
            if out is not None:
                save(out, {name: rows[name]})
    if any(row["status"] != "ok" for row in rows.values()):
        raise SystemExit(1)


def visit(name: str, folder: Path, quick: bool) -> Row:
    """Install a guest and let it train; what went wrong is part of the row."""
    guest = GUESTS[name]
    options = ["--guests", name, *(["--quick"] if quick else [])]
    row: Row = {
        "command": " ".join(["python", "benchmarks/guests.py", *options]),
        "install": [f"pip install {arguments}" for arguments in guest.installs],
        **({"note": guest.note} if guest.note else {}),
    }
    began = perf_counter()
    try:
        python = install(guest, folder)
    except GuestError as error:
        return {**row, "status": "not installable", "reason": str(error)}
    row["install_s"] = round(perf_counter() - began, 1)
    began = perf_counter()
    result = folder / "result.json"
    command = [str(python), str(HERE / f"guest_{name}.py"), "--out", str(result)]
    try:
        call([*command, *options[2:]], folder, QUICK_LIMIT_S if quick else LIMIT_S)
    except GuestError as error:
        return {**row, "status": "failed", "reason": str(error)}
    row["run_s"] = round(perf_counter() - began, 1)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    about = {"machine": machine, "python": platform.python_version()}
    return {**row, "status": "ok", **about, **json.loads(result.read_text(encoding="utf-8"))}


def install(guest: Guest, folder: Path) -> Path:
    """Make the virtual environment (once) and give its interpreter."""
    call([sys.executable, "-m", "venv", str(folder)])
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = folder / scripts / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(call([str(python), "-c", where]).strip())
    # lines of a .pth file go to the end of sys.path: what is installed here comes first
    shared = [str(Path(prune_gym.__file__).resolve().parents[1])]
    shared += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "shared.pth").write_text("\n".join(dict.fromkeys(shared)) + "\n", encoding="utf-8")
    for arguments in guest.installs:
        call([str(python), "-m", "pip", "install", "--quiet", *arguments.split()])
    if guest.patch is not None:
        guest.patch(packages)
    return python


def call(command: list[str], folder: Path | None = None, limit_s: float = LIMIT_S) -> str:
    """Run a command to its end; raises with the last lines of what it said."""
    one_thread = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}
    environment = {**os.environ, **one_thread}
    environment.pop("PYTHONPATH", None)  # it would go before the guest's own packages
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, cwd=folder, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise GuestError(f"did not end within {limit_s:g} s") from error
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise GuestError("\n".join(said[-5:]) or f"exit code {done.returncode}")
    return done.stdout


def save(path: Path, rows: dict[str, Row]) -> None:
    """Put rows into the file; those of other guests stay."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**known, **rows}, indent=1)


def describe(name: str, row: Row) -> str:
    """Lines for the terminal."""
    if row["status"] != "ok":
        return f"{name}: {row['status']}\n{row['reason']}"
    lines = [f"{name}: ok, installed in {row['install_s']} s, ran {row['run_s']} s"]
    for each in row["rows"]:
        first, last = each["first"], each["last"]
        lines.append(
            f"  {each['algorithm']}: {each['episodes']} episodes in {each['wall_s']} s, return "
            f"{first['return']:.3f} -> {last['return']:.3f}, cost {first['cost']:.3f} -> "
            f"{last['cost']:.3f} of {row['cost_limit']:g}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
