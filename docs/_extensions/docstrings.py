"""Docstrings as Sphinx reads them: Markdown tables, and colons in what a property is."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_RULE = re.compile(r"\s*\|(\s*:?-+:?\s*\|)+\s*")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _list_table(rows: list[str]) -> list[str]:
    indent = " " * (len(rows[0]) - len(rows[0].lstrip()))
    lines = [f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in [rows[0], *rows[2:]]:
        for index, cell in enumerate(_cells(row)):
            mark = "* -" if index == 0 else "  -"
            lines.append(f"{indent}   {mark} {cell}".rstrip())
    return ["", *lines, ""]


def convert_tables(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Replace each Markdown table among a docstring's lines."""
    done: list[str] = []
    index = 0
    while index < len(lines):
        end = index
        while end < len(lines) and lines[end].lstrip().startswith("|"):
            end += 1
        if end - index >= 2 and _RULE.fullmatch(lines[index + 1]):
            done += _list_table(lines[index:end])
            index = end
        else:
            done.append(lines[index])
            index += 1
    lines[:] = done
    if what in ("attribute", "property") and lines:
        # else napoleon takes the words before a colon for the name of a type
        head, colon, tail = lines[0].partition(": ")
        lines[:1] = [head + colon.strip(), *([tail] if tail else [])]


def setup(app: Sphinx) -> dict[str, bool]:
    """Convert before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", convert_tables, priority=400)
    return {"parallel_read_safe": True}
