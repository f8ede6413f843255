"""A budget that a program of yours measures: it is handed a file, and prints a number."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from prune_gym.budgets.base import Budget
from prune_gym.errors import BudgetError, InvalidValueError
from prune_gym.networks.formats import export_network

COMMAND = "command"  # "command:./measure.sh {onnx}", "command[ms]:./measure.sh {onnx}"
FORMATS = ("onnx", "pt2", "safetensors")  # of the file; each is a placeholder and its ending
_PLACE = re.compile(r"\{(" + "|".join(FORMATS) + r")\}")
_TAIL = 500  # characters of a program's output that an error shows


def command_budget(
    command: str,
    *,
    name: str | None = None,
    unit: str = "",
    timeout_s: float = 60.0,
    retries: int = 1,
    monotone: bool = False,
    deterministic: bool = False,
    in_turns: bool = False,
    folder: str | os.PathLike[str] | None = None,
) -> Budget:
    """A budget that an external program measures.

    The network is exported to a temporary file, whose path takes the place of ``{onnx}``,
    ``{pt2}`` or ``{safetensors}`` in the command. The last line of the program's standard output
    that is a number is the budget; other lines are ignored. There is no shell: the command is
    split as a shell would, and run in ``folder``.

    Args:
        command: e.g. ``"./measure.sh {onnx}"``.
        name: of the budget; None = the program's name without its ending, or that of the first
            file of ``folder`` among the command's words (``measure`` of ``sh ./measure.sh``).
        unit: of the number, e.g. ``"ms"``.
        timeout_s: seconds a run may take; then it is killed, with what it started.
        retries: how often to run it again after an exit status other than 0.
        monotone: whether removing filters never raises the number.
        deterministic: whether equal networks give equal numbers.
        in_turns: whether to run it for the unpruned network right before each network, so that a
            machine that becomes slower changes no ratio; it takes twice the time.
        folder: where to run it, and where a relative path of it begins; None = the working
            directory of now.

    Raises:
        BudgetError: a command without a place for the file, or a program that is not there or
            cannot be executed.
    """
    place = Path.cwd() if folder is None else Path(folder).resolve()
    if not timeout_s > 0:
        raise InvalidValueError(f"timeout_s={timeout_s!r} must be above 0, in seconds.")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise InvalidValueError(f"retries={retries!r} must be a whole number, 0 or above.")
    words = _words(command)
    program = _program(words[0], command, place)
    return Budget(
        name or _name(words, place),
        unit=unit,
        monotone=monotone,
        deterministic=deterministic,
        in_turns=in_turns,
        measure_on=_Program((program, *words[1:]), command, str(place), timeout_s, retries),
    )


def is_command(key: str) -> bool:
    """Whether a budget's key names a program."""
    return key.startswith(tuple(COMMAND + mark for mark in ":[@"))


def parse_command(key: str) -> Budget:
    """A budget from ``"command:PROGRAM {onnx}"``, ``"command[UNIT]@FOLDER:PROGRAM {onnx}"``.

    UNIT is that of the number which is printed; FOLDER is where to run it, without one, the
    working directory.
    """
    unit, folder, command = _split(key)
    return command_budget(command, unit=unit, folder=folder)


def settled(key: str) -> str:
    """The key with its folder, so that a run can go on from any other."""
    if not is_command(key):
        return key
    unit, folder, command = _split(key)
    return f"{COMMAND}{f'[{unit}]' if unit else ''}@{folder or Path.cwd()}:{command}"


def bare(key: str) -> str:
    """The key without unit and folder."""
    return f"{COMMAND}:{_split(key)[2]}" if is_command(key) else key


def _split(key: str) -> tuple[str, str | None, str]:
    unit, rest = "", key.removeprefix(COMMAND)
    if rest.startswith("["):
        unit, _, rest = rest[1:].partition("]")
    if rest.startswith(":"):
        return unit.strip(), None, rest[1:]
    folder, separator, command = rest.removeprefix("@").partition(":")
    if re.fullmatch("[A-Za-z]", folder) and command[:1] in ("\\", "/"):  # a drive of Windows
        rest, separator, command = command.partition(":")
        folder = f"{folder}:{rest}"
    if not separator or not rest.startswith("@"):
        raise BudgetError(
            f"budget {key!r}: expected command:PROGRAM {{onnx}}, command[UNIT]:PROGRAM {{onnx}} or "
            "command@FOLDER:PROGRAM {onnx}."
        )
    return unit.strip(), folder, command


def _name(words: list[str], folder: Path) -> str:
    """``measure`` of ``./measure.sh``, and of ``sh ./measure.sh``."""
    own = (w for w in words if not os.path.isabs(w) and os.path.isfile(os.path.join(folder, w)))
    return Path(next(own, words[0])).stem


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BudgetError(f"command {command!r} cannot be split into words: {error}.") from error
    places = _PLACE.findall(command)
    if not words or len(set(places)) != 1 or _PLACE.search(words[0]):
        raise BudgetError(
            f"command {command!r}: expected a program and one of {{onnx}}, {{pt2}}, "
            "{safetensors} where the file's path goes, e.g. './measure.sh {onnx}'."
        )
    return words


def _program(word: str, command: str, folder: Path) -> str:
    """The absolute path of the program."""
    has_folder = os.sep in word or "/" in word
    path = folder / word
    if has_folder and path.is_file() and not os.access(path, os.X_OK):
        raise BudgetError(
            f"command {command!r}: {path} cannot be executed; make it executable: chmod +x {path}"
        )
    found = shutil.which(str(path) if has_folder else word)
    if found is None:
        where = f"there is no file {path}" if has_folder else f"no program {word!r} on the PATH"
        cure = "" if has_folder or not path.is_file() else f" (write ./{word} for the one here)"
        raise BudgetError(f"command {command!r}: {where}{cure}.")
    return os.path.abspath(found)


@dataclass(frozen=True)
class _Program:
    words: tuple[str, ...]
    command: str  # as it was written
    folder: str
    timeout_s: float
    retries: int

    def __call__(self, network: nn.Module, example: torch.Tensor) -> float:
        with tempfile.TemporaryDirectory(prefix="prune_gym-") as folder:
            (form,) = set(_PLACE.findall(self.command))
            path = Path(folder) / f"network.{form}"
            if form == "safetensors":
                held = {n: t.detach().cpu().clone() for n, t in network.state_dict().items()}
                path.write_bytes(save({n: t.contiguous() for n, t in held.items()}))
            else:
                export_network(network, example, path)
            words = [_PLACE.sub(lambda _: str(path), word) for word in self.words]
            return self._number(words)

    def _number(self, words: list[str]) -> float:
        for _ in range(self.retries + 1):
            status, printed, errors = self._run(words)
            if status == 0:
                break
        else:
            raise BudgetError(
                f"{self.command!r} ended with status {status} in each of {self.retries + 1} runs; "
                f"its standard error: {_tail(errors)}"
            )
        for line in reversed(printed.splitlines()):
            with contextlib.suppress(ValueError):
                return float(line.strip())
        raise BudgetError(
            f"{self.command!r} printed no number; expected a line on its standard output that is "
            f"one, but there was: {_tail(printed)}; its standard error: {_tail(errors)}"
        )

    def _run(self, words: list[str]) -> tuple[int, str, str]:
        try:
            process = subprocess.Popen(
                words,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # so that it can be killed with what it starts
            )
        except OSError as error:
            raise BudgetError(
                f"{self.command!r} cannot be run: {error.strerror}. A script needs a first line "
                "such as #!/bin/sh."
            ) from error
        with _killing(process):
            try:
                printed, errors = process.communicate(timeout=self.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise BudgetError(
                    f"{self.command!r} took longer than timeout_s={self.timeout_s:g} s and was "
                    "killed. Mend it, or give it more time: command_budget(..., timeout_s=600)."
                ) from error
        return process.returncode, printed, errors


@contextlib.contextmanager
def _killing(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process, and what it started, if the block is left by an error."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # what got away may hold the pipes
            process.communicate(timeout=1.0)
        raise


def _tail(text: str) -> str:
    return repr(text.strip()[-_TAIL:]) if text.strip() else "(nothing)"
