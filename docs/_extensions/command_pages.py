"""The pages of the commands, written by typer from the commands themselves."""

from __future__ import annotations

import pages
import typer
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from agents.options import Command


def reference(app: typer.Typer, name: str) -> str:
    """Usage, arguments and options of a command and of all its parts, as Markdown."""
    command = typer.main.get_command(app)
    for part in (command, *getattr(command, "commands", {}).values()):
        if isinstance(part, Command):
            part.show_names()
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name=name)


def write_pages(app: Sphinx) -> None:
    """Write one page a command, to be included."""
    from agents import compare, enjoy, train
    from agents.benchmark import program
    from prune_gym.cli import main

    commands = {
        "prune-gym": main.app,
        "python -m agents.train": train.app,
        "python -m agents.enjoy": enjoy.app,
        "python -m agents.compare": compare.app,
        "python -m agents.benchmark": program.app,
    }
    for name, command in commands.items():
        text = reference(command, name).partition("\n")[2]  # the page has a title of its own
        text = text.replace("```console\n", "```text\n")
        pages.write(f"commands/{name.split()[-1]}.inc", text.strip() + "\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx reads any."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
