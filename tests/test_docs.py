"""Every Python and shell block of the pages in docs/ runs, in the order in which a reader meets it.

The blocks of a page share one folder and one namespace. A ``python`` block whose first line is
``# NAME.py`` is a file of the reader's. Blocks marked ``py`` or ``sh`` do not run, and say why.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer
from typer.main import get_command

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in DOCS.rglob("*.md")
    if not {"generated", "_build"} & set(path.relative_to(DOCS).parts)
)
BLOCK = re.compile(
    r"(?P<comment><!--[^>]*-->\n)?^```(?P<kind>python|py|bash|sh)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"# (\w+\.py)\n")
RUN, NOT_RUN = ("python", "bash"), ("py", "sh")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        kind: its language.
        text: its content.
        comment: the HTML comment right before it; empty where there is none.
        line: where it begins.
    """

    kind: str
    text: str
    comment: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            match["kind"],
            match["text"],
            (match["comment"] or "").strip(),
            text.count("\n", 0, match.start("text")),
        )
        for match in BLOCK.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


WITH_CODE = [page for page in PAGES if any(block.kind in RUN for block in blocks_of(page))]


def commands_of(block: Block) -> list[list[str]]:
    """Words of every command line; a backslash at a line's end goes on in the next."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line]


def apps() -> dict[tuple[str, ...], typer.Typer]:
    """The commands that can be run in this process, by their first words."""
    from agents import enjoy, train
    from agents.benchmark import program
    from prune_gym.cli import main

    return {
        ("prune-gym",): main.app,
        ("python", "-m", "agents.train"): train.app,
        ("python", "-m", "agents.enjoy"): enjoy.app,
        ("python", "-m", "agents.benchmark"): program.app,
    }


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command line as a shell would, but in this process, where torch is loaded already."""
    if words[0] == "python" and words[1].endswith(".py"):
        runpy.run_path(words[1], run_name="__main__")
        return
    for first, app in apps().items():
        if tuple(words[: len(first)]) == first:
            monkeypatch.setattr(sys, "argv", words)
            status = get_command(app).main(words[len(first) :], standalone_mode=False)
            assert status in (None, 0), words
            return
    pytest.fail(f"no test can run {shlex.join(words)!r}; mark the block sh, and say why")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, whose modules are found; nothing of it is left afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_page_runs(page, reader, monkeypatch, capsys):
    namespace = {"__name__": "page"}
    for block in blocks_of(page):
        where = f"docs/{name_of(page)}, line {block.line}"
        file = FILE.match(block.text)
        if block.kind == "bash":
            for words in commands_of(block):
                run_command(words, monkeypatch)
        elif file is not None:
            (reader / file[1]).write_text(block.text, encoding="utf-8")
            continue
        elif block.kind == "python":
            exec(compile(block.text, where, "exec"), namespace)
        else:
            continue
        assert capsys.readouterr().out.strip(), f"{where} shows nothing"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_does_not_run_says_why(page):
    for block in blocks_of(page):
        if block.kind in NOT_RUN:
            assert re.fullmatch(r"<!-- not run: \S.* -->", block.comment), block


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_of_a_known_kind(page):
    fences = re.findall(r"^```(\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = {"{toctree}", "{eval-rst}", "json", "yaml"}
    assert {kind for kind in fences if not kind.startswith("{")} <= {*RUN, *NOT_RUN, *plain, "text"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for name in re.findall(
        r"`((?:prune_gym|agents|examples|benchmarks|tests|docs)/[\w./]*)`", text
    ):
        if not name.startswith("docs/_build"):
            assert (ROOT / name).exists(), name


def test_every_page_is_reached_from_the_index():
    lists = [page.read_text(encoding="utf-8") for page in PAGES]
    listed = {
        (page.parent / line).resolve()
        for page, text in zip(PAGES, lists, strict=True)
        for body in re.findall(r"^```{toctree}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in body.split()
    }
    unlisted = {page for page in PAGES if page.with_suffix("") not in listed}
    assert unlisted == {DOCS / "index.md"}


def test_the_page_of_the_command_names_every_command_and_no_other():
    from prune_gym.cli.main import app

    text = (DOCS / "command.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `prune-gym (\w+)", text, re.MULTILINE)
    assert sorted(table) == sorted(get_command(app).commands)
    for page in PAGES:
        used = set(re.findall(r"prune-gym ([a-z]+)\b", page.read_text(encoding="utf-8")))
        assert used <= set(table), page


# of Ray's own command, and of SLURM's
OTHERS = {
    *("--address", "--block", "--head", "--num-cpus", "--port", "--resources"),
    "--working-dir",
    *("--cpus-per-task", "--exclude", "--nodes", "--ntasks", "--ntasks-per-node", "--time"),
}


def test_options_in_the_pages_exist(known_options):
    for page in PAGES:
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
        used -= {"--all", *OTHERS}  # --all is of pytest, for the tests of this project
        assert used <= known_options, page


def test_every_agent_and_every_rule_has_its_place():
    from agents import AGENTS
    from prune_gym import BUDGETS, CRITERIA

    for rows, page in ((AGENTS, "agents/index.md"), (BUDGETS.describe(), "budgets.md")):
        text = (DOCS / page).read_text(encoding="utf-8")
        assert [name for name in rows if f"`{name}`" not in text] == []
    text = (DOCS / "criteria.md").read_text(encoding="utf-8")
    assert [name for name in CRITERIA.describe() if f"`{name}`" not in text] == []
