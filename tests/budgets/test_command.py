"""Programs as budgets: the number, the file, and everything that can go wrong."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch

from prune_gym import BudgetError, command_budget
from prune_gym.budgets import as_budget
from prune_gym.budgets.command import CommandSpec
from prune_gym.budgets.resolve import budget_key, budgets_from_json, budgets_to_json

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs here are for /bin/sh")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes ``measure.sh`` into the working directory; gives its path."""
    monkeypatch.chdir(tmp_path)

    def write(*lines: str) -> Path:
        path = tmp_path / "measure.sh"
        path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
        path.chmod(0o755)
        return path

    return write


def measured(command="./measure.sh {safetensors}", **arguments) -> float:
    return command_budget(command, **arguments)(tiny.build("vgg"), tiny.images_of(1))


@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_the_program_is_handed_the_file(program, form):
    """The size of the file: a smaller network has a smaller one."""
    program('echo measuring "$1"', 'wc -c < "$1"', "echo done")
    budget = command_budget(f"./measure.sh {{{form}}}", unit="bytes")
    problem = tiny.make_tiny()
    smallest = problem.compact(problem.masks_of([1, 1, 1]))
    networks = (smallest, problem.network)
    small, large = (budget(network, problem.example) for network in networks)
    assert 0 < small < large
    assert small == int(small)


def test_the_file_is_the_network(program):
    """A program in Python that reads the tensors and counts them."""
    code = (
        "import sys; from safetensors import safe_open; f = safe_open(sys.argv[1], 'np'); "
        "print(sum(f.get_tensor(k).size for k in f.keys()))"
    )
    network = tiny.build("vgg")
    elements = sum(t.numel() for t in network.state_dict().values())
    command = f"{sys.executable} -c \"{code}\" '{{safetensors}}'"
    assert command_budget(command)(network, tiny.images_of(1)) == elements


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (["echo 3"], 3.0),
        (["echo 1; echo 2.5e1; echo ' 7 '; echo of 9 trials"], 7.0),
        (["echo 4; echo 5 >&2"], 4.0),
        (["echo 0.25"], 0.25),
    ],
)
def test_the_last_line_that_is_a_number(program, lines, number):
    program(*lines)
    assert measured() == number


def test_it_runs_in_its_folder_from_wherever(program, monkeypatch, tmp_path):
    program("cat number.txt")
    (tmp_path / "number.txt").write_text("11\n")
    key = "command:./measure.sh {safetensors}"
    (tmp_path / "elsewhere").mkdir()
    budget, spec = as_budget(key), budget_key(key)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert spec == CommandSpec("./measure.sh {safetensors}", str(tmp_path))
    (again,) = budgets_from_json(json.loads(json.dumps(budgets_to_json({spec: 0.5}))))
    assert again == spec
    for each in (budget, as_budget(spec), as_budget(again)):
        assert each(tiny.build("vgg"), tiny.images_of(1)) == 11.0
        assert each.name == "measure"
    with pytest.raises(BudgetError, match=r"there is no file .*elsewhere/measure.sh"):
        as_budget(key)
    assert budget_key("params") == "params"


def test_there_is_no_shell(program):
    program('echo "$#"')
    assert measured("./measure.sh {safetensors} '*' '$HOME' ; rm -rf {safetensors}.no") == 7.0


def test_names(program):
    program("echo 3")
    assert as_budget("command:/bin/cat {onnx}").name == "cat"
    assert as_budget("command:sh ./measure.sh {onnx}").name == "measure"
    assert as_budget("command:sh -x ./measure.sh {onnx}").name == "measure"
    assert as_budget("command:sh ./gone.sh {onnx}").name == "sh"
    assert command_budget("cat {onnx}", name="joules", unit="J").unit == "J"
    assert command_budget("cat {onnx}", name="joules").name == "joules"


def test_a_second_try(program, tmp_path):
    program("echo try >> tries", '[ "$(wc -l < tries)" -gt 2 ] || exit 3', "echo 5")
    assert measured(retries=2) == 5.0
    assert (tmp_path / "tries").read_text().count("try") == 3


def test_a_program_that_fails(program, tmp_path):
    program("echo try >> tries", "echo no such device >&2", "exit 3")
    with pytest.raises(
        BudgetError,
        match=r"budget 'measure': '\./measure.sh {safetensors}' ended with status 3 in each of 2 "
        r"runs; its standard error: 'no such device'",
    ):
        measured()
    assert (tmp_path / "tries").read_text().count("try") == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["echo fast"], r"printed no number; expected a line .*, but there was: 'fast'; its stan"),
        (["true"], r"printed no number; .*there was: \(nothing\); its standard error: \(nothing\)"),
        (["echo nan"], r"budget 'measure' returned nan; expected a finite number"),
        (["echo -3"], r"budget 'measure' returned -3.0; expected a finite number, 0 or above"),
        (["echo 3ms"], r"printed no number"),
    ],
)
def test_a_program_that_prints_no_cost(program, lines, message):
    program(*lines)
    with pytest.raises(BudgetError, match=message):
        measured()


def test_a_program_that_hangs_is_killed_with_what_it_started(program, tmp_path):
    program("sleep 300 &", "echo $! > child", "echo $$ > self", "sleep 300")
    began = time.monotonic()
    with pytest.raises(
        BudgetError,
        match=r"budget 'measure': '.*' took longer than timeout_s=0.5 s and was killed. Mend it, "
        r"or give it more time: command_budget\(..., timeout_s=600\)",
    ):
        measured(timeout_s=0.5, retries=5)
    assert time.monotonic() - began < 20.0
    for name in ("child", "self"):
        assert not is_running(int((tmp_path / name).read_text()))


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    for _ in range(50):
        stat = Path(f"/proc/{pid}/stat")
        if Path("/proc/self").exists():
            if not stat.exists() or ") Z" in stat.read_text():
                return False
        else:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
        time.sleep(0.1)
    return True


def test_a_program_that_leaves_something_behind_is_waited_for_no_longer(program):
    program("sleep 300 &", "echo 3")
    with pytest.raises(BudgetError, match="took longer than"):
        measured(timeout_s=0.5)


def test_programs_that_cannot_be_run(program, tmp_path, monkeypatch):
    path = program("echo 3")
    path.chmod(0o644)
    with pytest.raises(
        BudgetError, match=r"measure.sh cannot be executed; make it exec.*chmod \+x"
    ):
        command_budget("./measure.sh {onnx}")
    with pytest.raises(
        BudgetError, match=r"command '\./gone.sh {onnx}': there is no file .*gone.sh"
    ):
        command_budget("./gone.sh {onnx}")
    with pytest.raises(BudgetError, match=r"no program 'gone' on the PATH\."):
        command_budget("gone {onnx}")
    with pytest.raises(
        BudgetError, match=r"no program 'measure.sh' on the PATH \(write ./measure.sh for the one"
    ):
        command_budget("measure.sh {onnx}")
    path.chmod(0o755)
    path.write_text("echo 3\n")
    with pytest.raises(BudgetError, match=r"cannot be run: .* A script needs a first line such as"):
        measured()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "./measure.sh",
            r"command './measure.sh': expected a program and one of {onnx}, {pt2}, {s",
        ),
        ("", r"command '': expected a program and one of"),
        ("{onnx}", r"command '{onnx}': expected a program"),
        ("cat {onnx} {pt2}", r"command 'cat {onnx} {pt2}': expected a program and one of"),
        (
            "cat '{onnx}",
            r"command \"cat '{onnx}\" cannot be split into words: No closing quotation",
        ),
    ],
)
def test_commands_that_are_none(command, message):
    with pytest.raises(BudgetError, match=message):
        command_budget(command)
    for key in ("command@somewhere", "command[ms", "command[ms]x"):
        with pytest.raises(BudgetError, match=r"expected command:PROGRAM {onnx}, or command\[UNIT"):
            as_budget(key)


def test_the_unit_of_what_is_printed(program, tmp_path):
    program("echo 3")
    assert as_budget("command:./measure.sh {onnx}").unit == ""
    (old,) = budgets_from_json({f"command[ms]@{tmp_path}:./measure.sh {{onnx}}": "2ms"})
    for key in (CommandSpec.parse("command[ms]:./measure.sh {onnx}"), old):
        budget = as_budget(key)
        assert (budget.unit, budget.name) == ("ms", "measure")
        assert key == CommandSpec("./measure.sh {onnx}", str(tmp_path), unit="ms")
        assert str(key) == "command:./measure.sh {onnx}"
    with pytest.raises(ValueError, match=r"measure has no unit, .*'command\[ms\]:PROGRAM {onnx}'"):
        tiny.make_tiny(budgets={"command:./measure.sh {onnx}": "2ms"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout_s": 0}, r"timeout_s=0 must be above 0, in seconds"),
        ({"retries": -1}, r"retries=-1 must be a whole number, 0 or above"),
        ({"retries": 1.5}, r"retries=1.5 must be a whole number"),
    ],
)
def test_settings_that_are_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        command_budget("cat {onnx}", **arguments)


def test_the_unpruned_network_in_turns(program, tmp_path):
    """The machine is half as fast by now; measured in turns, costs are what they were."""
    program('echo $(($(wc -c < "$1") * $(cat slowness)))')
    (tmp_path / "slowness").write_text("1")
    command = "./measure.sh {safetensors}"
    plain, turns = (
        tiny.make_tiny(budgets={command_budget(command, in_turns=in_turns): 1.0})
        for in_turns in (False, True)
    )
    masks = plain.masks_of([3, 4, 5])
    before = plain.costs(masks)
    (tmp_path / "slowness").write_text("2")
    assert plain.costs(masks) == 2.0 * before
    assert turns.costs(masks) == pytest.approx(before)


def test_a_network_that_cannot_be_written_is_named(program):
    class Odd(torch.nn.Module):
        def forward(self, images):
            return images.sum().item()

    program("echo 3")
    with pytest.raises(BudgetError, match=r"budget 'measure' raised ExportError: Odd"):
        command_budget("./measure.sh {onnx}")(Odd(), tiny.images_of(1))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([["params", 0.1]], r"budgets=\[.*expected limits by budget"),
        ({"m": {"command": "./m {onnx}"}}, r"budgets: 'm' is .*\('limit'\)"),
        ({"m": {"limit": 1, "shell": True}}, r"budgets: 'm' is .*unexpected keyword"),
    ],
)
def test_damaged_budgets_of_a_run(written, message):
    with pytest.raises(ValueError, match=message):
        budgets_from_json(written)


def test_budgets_of_a_run_are_written_by_name(tmp_path):
    spec = CommandSpec("sh ./m.sh {onnx}", str(tmp_path), unit="ms")
    (tmp_path / "m.sh").write_text("echo 3\n")
    written = budgets_to_json({"params": 0.1, spec: "2ms"})
    assert written["params"] == 0.1
    assert written["m"]["limit"] == "2ms"
    assert written["m"]["unit"] == "ms"
    assert budgets_from_json(json.loads(json.dumps(written))) == {"params": 0.1, spec: "2ms"}
    old = {"command@C:\\runs:m {onnx}": 0.5, f"command@{tmp_path}:m --x=a:b {{onnx}}": 0.5}
    assert list(budgets_from_json(old)) == [
        CommandSpec("m {onnx}", "C:\\runs"),
        CommandSpec("m --x=a:b {onnx}", str(tmp_path)),
    ]
