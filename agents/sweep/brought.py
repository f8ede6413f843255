"""Run folders on machines that do not see the sweep's own folder: sent there, and brought back.

There they lie in a folder for temporary files, one for each sweep. A try whose process died leaves
its run in it: it is brought back before the next try, which may be on another machine.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

COLLECT_S = 120.0  # that a machine has to give what lies on it


def place_of(token: str) -> Path:
    """Where runs of a sweep lie on this machine.

    Args:
        token: Name that no other sweep has.
    """
    return Path(tempfile.gettempdir()) / token


def packed(path: Path) -> bytes:
    """A folder as one archive; nothing where it is empty, or not there."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    if not files:
        return b""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to(path))
    return stream.getvalue()


def unpack(content: bytes, path: Path) -> None:
    """Put what `packed` gave in the place of a folder; nothing changes where it gave nothing."""
    if not content:
        return
    partial = path.with_name(f"{path.name}.brought")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(partial)
    shutil.rmtree(path, ignore_errors=True)
    partial.replace(path)


def taken(path: Path) -> bytes:
    """A folder as one archive; it is removed."""
    content = packed(path)
    shutil.rmtree(path, ignore_errors=True)
    return content


def left_here(token: str, name: str | None) -> dict[str, bytes]:
    """Runs that lie on this machine, by name; they are removed.

    Args:
        token: See `place_of`.
        name: Of one run; None = all.
    """
    place = place_of(token)
    folders = [one for one in sorted(place.glob("*")) if name in (None, one.name)]
    found = {one.name: taken(one) for one in folders}
    with suppress(OSError):  # others may be in work
        place.rmdir()
    return found


def collect(ray: Any, token: str, out: Path, name: str | None = None) -> None:
    """Bring back what tries that were broken off have left on the machines of a cluster.

    Args:
        ray: The module, connected.
        token: See `place_of`.
        out: The sweep's folder.
        name: Of one run; None = all, as nothing runs any more.
    """
    on_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    remote = ray.remote(left_here)
    answers = [
        remote.options(
            num_cpus=0, max_retries=0, scheduling_strategy=on_node(node, soft=False)
        ).remote(token, name)
        for node in nodes
    ]
    for answer in answers:
        with suppress(ray.exceptions.RayError):  # a machine that is lost has nothing to give
            for run, content in ray.get(answer, timeout=COLLECT_S).items():
                unpack(content, out / run)
