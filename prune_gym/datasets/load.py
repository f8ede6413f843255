"""`load_dataset`: a dataset from its name."""

from __future__ import annotations

from prune_gym.datasets import folders
from prune_gym.datasets.base import DATASETS, Dataset
from prune_gym.datasets.checks import check_dataset
from prune_gym.datasets.own import own_dataset
from prune_gym.errors import InvalidTypeError

_FOLDER = "folder:"


def load_dataset(name: str | Dataset, *, classes: bool = True) -> Dataset:
    """A dataset by name.

    Args:
        name: a registered name, ``"folder:PATH"`` or ``"folder:PATH@SIZE"`` (see
            `prune_gym.datasets.folder`), a ``"module:function"`` that returns a `Dataset` or its
            splits, (train, validation) or (train, validation, test), each what
            `prune_gym.datasets.as_split` takes, or a `Dataset`, which is returned as it is.
        classes: whether a target of such splits is the number of a class.

    Raises:
        UnknownNameError: nothing answers to the name.
        DatasetError: the data cannot be downloaded or read.
        ValueError: a split that is empty, or labels beyond the number of classes.
        TypeError: the function returned something else.

    >>> load_dataset("digits").n_classes
    10
    """
    if isinstance(name, str) and name.startswith(_FOLDER):
        return folders.folder(name.removeprefix(_FOLDER))
    made = name if isinstance(name, Dataset) else DATASETS.get(name)()
    if isinstance(made, tuple | list) and len(made) in (2, 3):
        return own_dataset(*made, classes=classes)
    if not isinstance(made, Dataset):
        raise InvalidTypeError(
            f"dataset {name!r} gave {type(made).__name__}; expected a Dataset, or its splits, "
            "(train, validation, test)."
        )
    check_dataset(made)
    return made


def absolute_name(name: str) -> str:
    """A dataset's name that means the same from any working directory.

    >>> absolute_name("digits"), absolute_name("folder:/data/birds@64/")
    ('digits', 'folder:/data/birds@64/')

    Raises:
        DatasetError: ``"folder:"`` with no path, or with a size that is none.
    """
    if name.startswith(_FOLDER):
        return _FOLDER + folders.absolute(name.removeprefix(_FOLDER))
    return name


def file_name(name: str) -> str:
    """What stands for a dataset's name in file names, without loading it.

    >>> file_name("digits"), file_name("my_module:my_function")
    ('digits', 'my_module.my_function')
    """
    if name.startswith(_FOLDER):
        return folders.file_name(name.removeprefix(_FOLDER))
    return name.replace(":", ".")
