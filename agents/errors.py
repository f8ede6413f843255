"""Every error that a user of `agents` can cause, in one tree.

The commands show an `AgentsError` in one line and end with its exit code; any other exception is a
bug and keeps its traceback. Messages name what was given, what is allowed, and the cure. Each error
also derives from the built-in type that fits, so that ``except ValueError`` works as everywhere.
"""

from __future__ import annotations

from typing import ClassVar


class AgentsError(Exception):
    """Something that a user can mend; the message says how.

    Attributes:
        exit_code: of a command that ends with this error.
    """

    exit_code: ClassVar[int] = 2


class InvalidValueError(AgentsError, ValueError):
    """An argument, option or file holds a value that is not allowed."""


class InvalidTypeError(AgentsError, TypeError):
    """An argument is of a kind that is not allowed."""


class UsageError(AgentsError, RuntimeError):
    """A call that has no meaning now, e.g. ``step_wait()`` without a step in work."""


class UnknownNameError(InvalidValueError):
    """A name that no agent, environment or importable object answers to."""


class CostError(InvalidValueError):
    """A cost or a limit that is missing or no finite number; says who has to give it."""


class UnfitEnvError(InvalidValueError):
    """An environment that does not fit the algorithm; the message says what makes it fit."""


class ModelFileError(InvalidValueError):
    """A saved model, replay buffer or checkpoint that is damaged, or of another kind."""


class TrustError(InvalidValueError):
    """A file names code that would be run; the message says which, and how to allow it."""


class RunFolderError(InvalidValueError):
    """A run folder that is missing, damaged, or taken already."""


class BenchmarkError(InvalidValueError):
    """A suite, an entry or a row of the benchmark that breaks its protocol."""


class ClusterError(AgentsError, RuntimeError):
    """A Ray cluster that cannot be used: not there, or with other versions on it."""


class FileError(AgentsError, OSError):
    """A file or folder that cannot be read or written; the message names it.

    Args:
        errno: Of the system's error, where there is one.
        message: What cannot be done, and why.
    """

    def __str__(self) -> str:
        """Return the message, without the system's number."""
        return str(self.args[-1]) if self.args else ""


class MissingFileError(FileError, FileNotFoundError):
    """A file that is not there; the message names it."""


class MissingLibraryError(AgentsError, ModuleNotFoundError):
    """An optional library that cannot be imported; the message says how to install it."""


class TrainingDivergedError(AgentsError, ArithmeticError):
    """The policy's numbers are finite no more; the message says what to lower."""
