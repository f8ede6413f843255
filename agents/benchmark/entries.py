"""Algorithms by name: of the zoo, of a suite, or ``module:function`` of anybody's."""

from __future__ import annotations

import difflib
import functools
import inspect
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from agents.arguments import shown
from agents.benchmark.rows import check_algorithm_name
from agents.benchmark.run import Train
from agents.benchmark.suite import Suite
from agents.errors import BenchmarkError
from agents.search_path import import_module_last

_WANTED = "train(make_env, seed, budget)"


def find_entry(algorithm: str, suite: Suite, name: str | None = None) -> tuple[str, Train]:
    """An algorithm and the name of its rows.

    Args:
        algorithm: An agent of the zoo, an entry of the suite, or ``"module:function"``.
        suite: With its entries.
        name: Of the rows; else that of the algorithm.

    Raises:
        BenchmarkError: There is none, it is no function of ``(make_env, seed, budget)``, or its
            rows would have the name of another one of the package.
    """
    from agents.benchmark.zoo import ZooEntry
    from agents.zoo.table import AGENTS

    if name not in (None, algorithm):
        check_free(check_algorithm_name(name), suite)
    if algorithm in suite.entries:
        return name or algorithm, imported(suite.entries[algorithm])
    if algorithm in AGENTS:
        return name or algorithm, ZooEntry(algorithm, suite.discrete_wrappers)
    if ":" not in algorithm:
        known = [*AGENTS, *suite.entries]
        near = difflib.get_close_matches(algorithm, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise BenchmarkError(
            f"algorithm is {shown(algorithm)}; it must be module:function, or one of "
            f"{', '.join(known)}.{hint}"
        )
    train = imported(algorithm)
    return check_free(name_of(train, algorithm, name), suite), train


def imported(path: str) -> Train:
    """Import ``"module:function"``.

    Raises:
        BenchmarkError: It cannot be imported, or is no training.
    """
    module, _, function = path.partition(":")
    if not module or not function:
        raise BenchmarkError(f"algorithm is {shown(path)}; expected module:function.")
    try:
        found: Any = import_module_last(module)
    except (Exception, SystemExit) as error:  # whatever the module raises
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        where = "It is looked up among what is installed, then in the working folder."
        if module.endswith(".py"):
            where = f"Leave out '.py': {module.removesuffix('.py')}:{function}."
        raise BenchmarkError(
            f"algorithm {path!r}: module {module!r} cannot be imported ({words}). {where}"
        ) from error
    for part in function.split("."):
        if not hasattr(found, part):
            names = [one for one in dir(found) if not one.startswith("_")]
            near = difflib.get_close_matches(part, names, n=1)
            hint = f" Did you mean {module}:{near[0]}?" if near else ""
            raise BenchmarkError(f"algorithm {path!r}: {module!r} has no {part!r}.{hint}")
        found = getattr(found, part)
    return check_train(found, path)


def check_free(name: str, suite: Suite) -> str:
    """A name of an algorithm from outside, which must not be that of one of the package.

    Raises:
        BenchmarkError: It is one.
    """
    from agents.zoo.table import AGENTS

    if name in {*suite.entries, *AGENTS}:
        raise BenchmarkError(
            f"name is {name!r}, that of an algorithm of the package; give yours another, such as "
            f"--name {name}-mine."
        )
    return name


def check_train(train: Any, name: str = "train") -> Train:
    """A function that can be called as ``train(make_env, seed, budget)``.

    Raises:
        BenchmarkError: It is none.
    """
    if not callable(train):
        raise BenchmarkError(f"{name} is {shown(train)}; it must be a function {_WANTED}.")
    try:
        inspect.signature(train).bind(None, 0, 0)
    except TypeError as error:
        raise BenchmarkError(
            f"{name} takes {inspect.signature(train)}; it must be a function {_WANTED}."
        ) from error
    except ValueError:  # compiled functions that do not say what they take
        pass
    found: Train = train
    return found


def code_of(algorithm: Train | str, train: Train) -> dict[str, str | None]:
    """What stands for an algorithm's code in its rows, ``train`` and ``sha256``.

    Args:
        algorithm: As it was given.
        train: The function that it names.

    Returns:
        The name, and 16 digits of its source file, where there is none of its source, with what
        a `functools.partial` holds; None for those that come with the package, and where there is
        no source.
    """
    if isinstance(algorithm, str) and ":" not in algorithm:
        return {"train": algorithm, "sha256": None}
    function: Any = train
    given = ""
    while isinstance(function, functools.partial):
        given += repr((function.args, sorted(function.keywords.items())))
        function = function.func
    if not hasattr(function, "__qualname__"):  # an object that is called
        function = type(function)
    module, source = function.__module__, None
    with suppress(OSError, TypeError):  # typed in, or compiled
        source = inspect.getsource(function).encode()  # such as of a cell of a notebook
    with suppress(OSError, TypeError):
        path = Path(inspect.getsourcefile(function) or "")
        source = path.read_bytes()
        module = path.stem if module == "__main__" else module  # a script is imported elsewhere
    digest = None if source is None else sha256(source + given.encode()).hexdigest()[:16]
    return {"train": f"{module}:{function.__qualname__}", "sha256": digest}


def name_of(train: Any, path: str | None = None, name: str | None = None) -> str:
    """The name of an algorithm's rows: as given, else the function's, else its module's."""
    if name is not None:
        return check_algorithm_name(name)
    function = getattr(train, "__name__", type(train).__name__)
    if path is not None:
        function = path.partition(":")[2].rpartition(".")[2]
    if function in ("train", "main", "<lambda>", "run"):
        module = path.partition(":")[0] if path else str(getattr(train, "__module__", ""))
        function = module.rpartition(".")[2].strip("_") or function
    return check_algorithm_name(function)
