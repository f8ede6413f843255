"""Where figures come from: the head of every results file."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "stable-baselines3",
    "sb3-contrib",
    "gymnasium",
    "numpy",
    "torch-pruning",
    "timm",
    "rliable",
)


def origin() -> dict[str, Any]:
    """Command, commit (and whether files were changed since), machine and versions."""
    changed = git("status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)benchmarks/results")
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_words()]),
        "commit": git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(changed),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def git(*words: str) -> str:
    """What git says of this checkout; empty where there is none."""
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    ).stdout.strip()


def processor() -> str:
    """Name and vector instructions of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    vector = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    name = fields.get("model name", platform.processor() or platform.machine())
    return f"{name} ({', '.join(vector)})" if vector else name


def _words() -> list[str]:
    """The command's words, but for ``--out``: where results go is no part of them."""
    words = sys.argv[1:]
    if "--out" in words:
        place = words.index("--out")
        words = words[:place] + words[place + 2 :]
    return words


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
