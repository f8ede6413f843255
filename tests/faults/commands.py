"""Commands as processes: how they are started, hit by signals, and how they ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TOO_LONG_S = 120.0


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; of one that a signal killed, minus its number.
        output: what it printed, both streams.
        megabytes: the most that it had in memory.
        hung: whether it had to be killed, as it took too long.
    """

    code: int
    output: str
    megabytes: float
    hung: bool


class Commands:
    """Starts commands by `forking`; one at a time."""

    def __init__(self) -> None:
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, HERE, ROOT / "tests"))),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "COLUMNS": "200",
        }
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "forking.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
            start_new_session=True,
        )
        self._line()

    def _line(self) -> str:
        line = self._server.stdout.readline().strip()
        assert line, "the forking process died"
        return line

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()

    def run(
        self,
        *words: object,
        folder: Path,
        signals: Sequence[tuple[float, int]] = (),
        variables: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
        fault: dict[str, Any] | None = None,
        too_long_s: float = TOO_LONG_S,
    ) -> Ended:
        """Run ``module arguments...`` in a folder.

        Args:
            words: of the command.
            folder: where it runs.
            signals: seconds after its start, or after the one before, and number of each signal.
            variables: of the environment.
            limits: of `resource`, by name.
            fault: see `forking.arrange`.
            too_long_s: after so many seconds it counts as hung, and is killed.
        """
        module, *arguments = map(str, words)
        number, output = tempfile.mkstemp(suffix=".txt")
        os.close(number)
        request = {
            "module": module,
            "arguments": arguments,
            "folder": str(folder),
            "output": output,
            "variables": variables or {},
            "limits": limits or {},
            "fault": fault,
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        child = int(self._line())
        over = threading.Event()
        sender = threading.Thread(target=_send, args=(child, signals, over))
        sender.start()
        hung: list[bool] = []
        watch = threading.Timer(too_long_s, _kill, args=(child, hung))
        watch.start()
        ended = json.loads(self._line())
        over.set()
        watch.cancel()
        sender.join()
        watch.join()
        said = Path(output).read_text(encoding="utf-8", errors="replace")
        os.unlink(output)
        return Ended(ended["code"], said, ended["kilobytes"] / 1024, bool(hung))


def _send(child: int, signals: Sequence[tuple[float, int]], over: threading.Event) -> None:
    for delay_s, number in signals:
        if over.wait(delay_s):
            return
        try:
            os.kill(child, number)
        except ProcessLookupError:
            return


def _kill(child: int, hung: list[bool]) -> None:
    hung.append(True)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        hung.clear()


def run_anew(*words: object, folder: Path, signals: Sequence[tuple[float, int]] = ()) -> Ended:
    """The same in a new Python: signals can hit its imports."""
    path = os.pathsep.join(map(str, (ROOT, HERE, ROOT / "tests")))
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    for delay_s, number in signals:
        time.sleep(delay_s)
        process.send_signal(number)
    try:
        said, _ = process.communicate(timeout=TOO_LONG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return Ended(-9, process.communicate()[0], 0.0, True)
    return Ended(process.returncode, said, 0.0, False)
