"""Every error that a user can cause, in one tree.

The commands show a `PruneGymError` in one line and end with its exit code; any other exception is a
bug and keeps its traceback. Messages name what was given, what is allowed, and the cure. Each error
also derives from the built-in type that fits, so that ``except ValueError`` works as everywhere.
"""

from __future__ import annotations

from typing import ClassVar

from gymnasium.error import DependencyNotInstalled


class PruneGymError(Exception):
    """Something that a user can mend; the message says how.

    Attributes:
        exit_code: of a command that ends with this error.
    """

    exit_code: ClassVar[int] = 2


class InvalidValueError(PruneGymError, ValueError):
    """An argument, option or file holds a value that is not allowed."""


class InvalidTypeError(PruneGymError, TypeError):
    """An argument is of a kind that is not allowed."""


class UsageError(PruneGymError, RuntimeError):
    """A call that has no meaning now, e.g. ``step()`` after an episode's end."""


class UnknownNameError(InvalidValueError):
    """A name that no registry row and no importable object answers to."""


class FileError(PruneGymError, OSError):
    """A file or folder that cannot be read or written; the message names it.

    Args:
        errno: of the system's error, where there is one.
        message: what cannot be done, and why.
    """

    def __str__(self) -> str:
        """The message, without the system's number."""
        return str(self.args[-1]) if self.args else ""


class FolderInPlaceError(FileError, IsADirectoryError):
    """A folder where a file is to be."""


class NoFolderError(FileError, NotADirectoryError):
    """A file where a folder is to be."""


class MissingLibraryError(PruneGymError, DependencyNotInstalled, ImportError):
    """A library that cannot be imported; the message says how to install it."""


class OutOfMemoryError(InvalidValueError):
    """The machine or the device has too little memory; the message says what to lower."""


class DatasetError(InvalidValueError):
    """A dataset that cannot be loaded: not there, not downloaded, or not what it should be."""


class UnsupportedNetworkError(InvalidValueError):
    """A network, or a layer of it, that cannot be pruned; the message names the layer."""


class LayerError(InvalidValueError):
    """A layer that filters cannot be removed from; the message names it."""


class CheckpointError(InvalidValueError):
    """Trained weights that are missing, damaged, or of another network."""


class ExportError(InvalidValueError):
    """A network that cannot be written in a format, or a file that differs from it."""


class CriterionError(InvalidValueError):
    """A criterion that cannot score such a network; the message says what to do."""


class BudgetError(InvalidValueError):
    """A budget that raised, or returned something that cannot be a cost; names the budget."""


class MetricError(InvalidValueError):
    """A metric that raised, gave no number, or does not fit outputs and targets; names it."""


class LossError(InvalidValueError):
    """A loss that raised, cannot be learned from, or does not fit outputs and targets; names it."""


class TrainerError(InvalidValueError):
    """A fine-tuning of a user's own that trained nothing, or gave another network."""


class TrainingDivergedError(PruneGymError, ArithmeticError):
    """The loss is no number any more; the message says what to lower."""


class InfeasibleLimitError(InvalidValueError):
    """A limit that even the smallest reachable network breaks; the message names the floor."""


class NothingFeasibleError(PruneGymError, RuntimeError):
    """A search ended without one network that meets every limit."""

    exit_code: ClassVar[int] = 1


class RunFolderError(InvalidValueError):
    """A run folder that is missing, damaged, or taken already."""


class TableError(InvalidValueError):
    """A table of judged networks that is missing, damaged, or of another network."""


class SharingError(PruneGymError, RuntimeError):
    """A shared problem that is gone, or one that cannot be shared."""


class ClusterError(PruneGymError, RuntimeError):
    """A Ray cluster that cannot be used: not there, too small, or with other versions on it."""


class WorkerError(ClusterError):
    """A network that no worker could judge: they died over it, or it took too long each time."""


class TrustError(PruneGymError, RuntimeError):
    """A file names code of somebody's own, and nobody said that it may run; see ``--trust``."""
