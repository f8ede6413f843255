"""Where modules are looked up: what is installed comes first, the working folder last.

Python puts the working folder first for ``python -m``, so that a ``queue.py`` that lies there would
take the place of Python's own. For the commands of both packages it comes last, and only once a
``module:function`` is asked for. This module is imported before any other, and loads none.
"""

import os
import sys
from importlib import import_module
from types import ModuleType

_COMMANDS = ("agents", "prune_gym")


def import_module_last(name: str) -> ModuleType:
    """Import a module that a user named; what is installed comes before the working folder.

    Args:
        name: With dots, as in ``import name``.

    Raises:
        Exception: Whatever the module raises; ImportError where there is none.
    """
    put_working_folder_last()
    return import_module(name)


def put_working_folder_last() -> None:
    """From now on modules are looked up in the working folder, too, after all other places."""
    if "" not in sys.path:  # whichever folder that is, even after os.chdir()
        sys.path.append("")


def _is_command() -> bool:
    """Whether Python was started as ``python -m`` with a module of these packages."""
    words = sys.orig_argv
    if "-m" not in words[:-1]:
        return False
    return words[words.index("-m") + 1].partition(".")[0] in _COMMANDS


def _take_working_folder_back() -> None:
    """Undo what ``python -m`` did, unless the packages themselves are found in that folder."""
    if sys.argv[0] != "-m" or not _is_command() or sys.path[0] not in ("", os.getcwd()):
        return  # argv begins with -m as long as the module is looked up
    folder = sys.path.pop(0)
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) == os.getcwd():
        sys.path.append(folder)


_take_working_folder_back()
