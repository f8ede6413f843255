"""Every Python block of the README and every example runs as it stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from typer.main import get_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_block(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": f"readme_{number}"}
    exec(compile(BLOCKS[number], f"README.md, python block {number}", "exec"), namespace)
    assert capsys.readouterr().out.strip()  # each block shows something
    assert list(tmp_path.iterdir()) == []


def test_readme_has_blocks_and_examples_are_numbered():
    assert len(BLOCKS) >= 3
    assert EXAMPLES
    assert [path.name[:3] for path in EXAMPLES] == [f"{n + 1:02}_" for n in range(len(EXAMPLES))]


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(path), run_name="__main__")
    assert names["__doc__"].strip()
    assert capsys.readouterr().out.strip()
    assert list(tmp_path.iterdir()) == []


def test_readme_names_files_that_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    for name in re.findall(
        r"`((?:prune_gym|agents|examples|benchmarks|tests|docs)/[\w./]*)`", README
    ):
        assert (ROOT / name).exists() or name.startswith("docs/_build"), name


def test_readme_names_commands_that_exist():
    from prune_gym.cli.main import app

    used = set(re.findall(r"prune-gym ([a-z]+)\b", README))
    assert used <= set(get_command(app).commands)


def test_options_in_the_readme_exist(known_options):
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known_options
