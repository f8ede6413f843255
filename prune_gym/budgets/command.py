"""A budget that a program of yours measures: it is handed a file, and prints a number.

What people type, ``"command:./measure.sh {onnx}"`` or ``"command[ms]:..."``, becomes a
`CommandSpec` at the door; run folders hold its fields.
"""

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from prune_gym.budgets.base import Budget
from prune_gym.errors import BudgetError, InvalidValueError
from prune_gym.networks.formats import export_network
from prune_gym.utils.stopping import ending

FORMATS = ("onnx", "pt2", "safetensors")  # of the file; each is a placeholder and its ending
_PLACE = re.compile(r"\{(" + "|".join(FORMATS) + r")\}")
_TEXT = re.compile(r"command(?:\[([^\]]*)\])?:(.*)", re.DOTALL)
_TAIL = 500  # characters of a program's output that an error shows


@dataclass(frozen=True)
class CommandSpec:
    """How a program is named that measures a budget; `command_budget` explains the fields.

    Attributes:
        command: e.g. ``"./measure.sh {onnx}"``.
        folder: absolute, where it runs; the working directory of when the spec was made.
        name: of the budget; empty = the program's name.
        unit: of the number.
        timeout_s: seconds a run may take.
        retries: how often to run it again.
        monotone: whether removing filters never raises the number.
        deterministic: whether equal networks give equal numbers.
        in_turns: whether the unpruned network is measured right before each network.
    """

    command: str
    folder: str = field(default_factory=os.getcwd)
    name: str = ""
    unit: str = ""
    timeout_s: float = 60.0
    retries: int = 1
    monotone: bool = False
    deterministic: bool = False
    in_turns: bool = False

    @classmethod
    def parse(cls, text: str) -> CommandSpec:
        """The spec of ``"command:PROGRAM {onnx}"`` or ``"command[UNIT]:PROGRAM {onnx}"``.

        Raises:
            BudgetError: text of another form.

        >>> CommandSpec.parse("command[ms]:./measure.sh {onnx}").unit
        'ms'
        """
        matched = _TEXT.fullmatch(text)
        if matched is None:
            raise BudgetError(
                f"budget {text!r}: expected command:PROGRAM {{onnx}}, or command[UNIT]:PROGRAM "
                "{onnx} if it prints a number with a unit."
            )
        return cls(matched[2], unit=(matched[1] or "").strip())

    def __str__(self) -> str:
        """As people type it, without unit and folder."""
        return f"command:{self.command}"

    @property
    def budget_name(self) -> str:
        """The budget's name: ``measure`` of ``./measure.sh``, and of ``sh ./measure.sh``."""
        if self.name:
            return self.name
        words = _words(self.command)
        paths = (os.path.join(self.folder, word) for word in words if not os.path.isabs(word))
        own = (path for path in paths if os.path.isfile(path))
        return Path(next(own, words[0])).stem

    def budget(self) -> Budget:
        """The budget that the program measures.

        Raises:
            BudgetError: a command without a place for the file, or a program that is not there or
                cannot be executed.
        """
        folder = Path(self.folder)
        if not self.timeout_s > 0:
            raise InvalidValueError(f"timeout_s={self.timeout_s!r} must be above 0, in seconds.")
        retries = self.retries
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise InvalidValueError(f"retries={retries!r} must be a whole number, 0 or above.")
        words = _words(self.command)
        program = _program(words[0], self.command, folder)
        return Budget(
            self.budget_name,
            unit=self.unit,
            monotone=self.monotone,
            deterministic=self.deterministic,
            in_turns=self.in_turns,
            measure_on=_Program((program, *words[1:]), self),
        )


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
    spec = CommandSpec(
        command,
        str(Path.cwd() if folder is None else Path(folder).resolve()),
        name or "",
        unit,
        timeout_s,
        retries,
        monotone,
        deterministic,
        in_turns,
    )
    return spec.budget()


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
    spec: CommandSpec

    def __call__(self, network: nn.Module, example: Any) -> float:
        with tempfile.TemporaryDirectory(prefix="prune_gym-") as folder:
            (ending,) = set(_PLACE.findall(self.spec.command))
            path = Path(folder) / f"network.{ending}"
            if ending == "safetensors":
                held = {n: t.detach().cpu().clone() for n, t in network.state_dict().items()}
                path.write_bytes(save({n: t.contiguous() for n, t in held.items()}))
            else:
                export_network(network, example, path)
            words = [_PLACE.sub(lambda _: str(path), word) for word in self.words]
            return self._number(words)

    def _number(self, words: list[str]) -> float:
        for _ in range(self.spec.retries + 1):
            status, printed, errors = self._run(words)
            if status == 0:
                break
        else:
            raise BudgetError(
                f"{self.spec.command!r} ended with status {status} in each of "
                f"{self.spec.retries + 1} runs; its standard error: {_tail(errors)}"
            )
        for line in reversed(printed.splitlines()):
            with contextlib.suppress(ValueError):
                return float(line.strip())
        raise BudgetError(
            f"{self.spec.command!r} printed no number; expected a line on its standard output "
            f"that is one, but there was: {_tail(printed)}; its standard error: {_tail(errors)}"
        )

    def _run(self, words: list[str]) -> tuple[int, str, str]:
        try:
            process = subprocess.Popen(
                words,
                cwd=self.spec.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # so that it can be killed with what it starts
            )
        except OSError as error:
            raise BudgetError(
                f"{self.spec.command!r} cannot be run: {error.strerror}. A script needs a first "
                "line such as #!/bin/sh."
            ) from error
        with _killing(process):
            try:
                printed, errors = process.communicate(timeout=self.spec.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise BudgetError(
                    f"{self.spec.command!r} took longer than timeout_s={self.spec.timeout_s:g} s "
                    "and was killed. Mend it, or give it more time: "
                    "command_budget(..., timeout_s=600)."
                ) from error
        return process.returncode, printed, errors


@contextlib.contextmanager
def _killing(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process, and what it started, if the block is left by an error."""

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()

    try:
        with ending(kill):  # a second Ctrl-C ends this process at once
            yield
    except BaseException:
        kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # what got away may hold the pipes
            process.communicate(timeout=1.0)
        raise


def _tail(text: str) -> str:
    return repr(text.strip()[-_TAIL:]) if text.strip() else "(nothing)"
