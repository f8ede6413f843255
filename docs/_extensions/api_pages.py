"""One page for every room that public names live in, made from ``__all__`` of both packages."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import pages
from sphinx.application import Sphinx

PACKAGES = ("prune_gym", "agents")
TITLES = {
    "": "The package",
    "costs": "Reading costs",
    "envs": "Environments",
    "evaluation": "Evaluation",
    "problem": "Problems",
    "pruning": "Filter groups",
    "runs": "Runs",
    "searches": "Searches",
    "toy": "A toy with a known optimum",
    "training": "Recovery and training",
    "zoo": "Agents by name",
}


def room_of(package: ModuleType, name: str) -> str:
    """The room in which a public name is defined: "budgets" of `prune_gym.budgets.base.Budget`.

    What is no class and no function (a registry, a table) knows no module of its own; the room is
    then the first whose package shows the same object.
    """
    thing = getattr(package, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        home = thing.__module__.split(".")
        if home[0] == package.__name__:
            return home[1] if len(home) > 1 else ""
        return "wrappers"  # `prune_gym` shows two wrappers of `agents`
    for room in ("budgets", "criteria", "datasets", "networks", "training", "zoo", "searches"):
        for module in (room, f"{room}.recovery", f"{room}.table", f"{room}.baselines"):
            try:
                found = import_module(f"{package.__name__}.{module}")
            except ModuleNotFoundError:
                continue
            if getattr(found, name, None) is thing:
                return room
    return ""


def entry(package: ModuleType, name: str) -> str:
    """A public name's part of its page."""
    thing = getattr(package, name)
    full = f"{package.__name__}.{name}"
    if inspect.isclass(thing):
        directive = "autoexception" if issubclass(thing, BaseException) else "autoclass"
        bases = [base for base in thing.__bases__ if not base.__name__.startswith(("_", "object"))]
        options = "   :members:\n" + ("   :show-inheritance:\n" if bases else "")
        if not thing.__module__.startswith(package.__name__):  # its own package indexes it
            options += "   :no-index:\n"
        return f"```{{eval-rst}}\n.. {directive}:: {full}\n{options}```\n"
    if inspect.isfunction(thing):
        return f"```{{eval-rst}}\n.. autofunction:: {full}\n```\n"
    return f"```{{eval-rst}}\n.. py:data:: {full}\n```\n\n{_rows(thing)}"


def _rows(thing: Any) -> str:
    """What a registry or a table holds, one line each."""
    if hasattr(thing, "describe"):
        described: Mapping[str, str] = thing.describe()
    else:
        described = {key: row.description for key, row in thing.items()}
    rows = [(f"`{name}`", words) for name, words in described.items()]
    return pages.table(("name", "what it is"), rows)


def write_pages(app: Sphinx) -> None:
    """Write the pages of both packages, and the lists of them."""
    written = set()
    for package_name in PACKAGES:
        package = import_module(package_name)
        rooms: dict[str, list[str]] = defaultdict(list)
        for name in package.__all__:
            rooms[room_of(package, name)].append(name)
        for room, names in rooms.items():
            title = TITLES.get(room, room.capitalize())
            source = f"{package_name}.{room}".rstrip(".")
            text = f"# {title}\n\nDefined in `{source}`; import from `{package_name}`.\n\n"
            if room == "wrappers":
                text = f"# {title}\n\nImport from `{package_name}`.\n\n"
            text += "\n".join(entry(package, name) for name in names)
            file = f"{package_name}.{room or 'package'}.md"
            pages.write(f"api/{file}", text)
            written.add(file)
    pages.drop_others("api", written)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx reads any."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
