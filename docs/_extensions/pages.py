"""Where generated pages go, and how they are written."""

from __future__ import annotations

from pathlib import Path

GENERATED = Path(__file__).parents[1] / "generated"


def write(name: str, text: str) -> None:
    """Write a page, ``generated/NAME``, unless it says so already: then it is not built anew."""
    path = GENERATED / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def drop_others(folder: str, names: set[str]) -> None:
    """Remove pages of an earlier build that are no longer made."""
    for path in (GENERATED / folder).glob("*.md"):
        if path.name not in names:
            path.unlink()
