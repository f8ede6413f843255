"""What the commands share: errors in one line, stopping, KEY=VALUE options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from agents.console import fail, parse_values, say, user_errors
from agents.errors import AgentsError, InvalidValueError, TrainingDivergedError
from agents.stopping import stopping

# -- errors ----------------------------------------------------------------------------------------


class NothingError(AgentsError):
    exit_code = 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidValueError("x is 1"), 2),
        (TrainingDivergedError("x is 1"), 2),
        (NothingError("x"), 1),
    ],
)
def test_errors_of_the_root_take_one_line(error, code, capsys):
    with pytest.raises(SystemExit) as stopped, user_errors(AgentsError):
        raise error
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    ("bug", "words"),
    [
        (lambda: {}[[]], "unhashable type: 'list'"),
        (lambda: int("x"), "invalid literal"),
        (lambda: 1 / 0, "division by zero"),
        (lambda: open("/nowhere/at/all"), "No such file"),  # noqa: SIM115
        (lambda: __import__("no_such_module"), "No module named"),
    ],
)
def test_bugs_keep_their_traceback(bug, words):
    with pytest.raises(Exception, match=words), user_errors(AgentsError):
        bug()


def test_other_roots_have_a_code_too(capsys):
    with pytest.raises(SystemExit, match="2"), user_errors(AgentsError, KeyError):
        raise KeyError("name")
    assert capsys.readouterr().err == "error: 'name'\n"


def test_ctrl_c_is_no_error_of_the_program(capsys):
    with pytest.raises(SystemExit, match="130"), user_errors(AgentsError, stopped="nothing done."):
        raise KeyboardInterrupt
    assert "nothing done." in capsys.readouterr().err


def test_words_are_printed_as_they_are(capsys):
    say("[bold]runs/x[0][/] " + "long " * 40)
    assert capsys.readouterr().out == "[bold]runs/x[0][/] " + "long " * 40 + "\n"


def test_a_bug_in_an_environment_shows_its_traceback(tmp_path):
    (tmp_path / "buggy.py").write_text(
        "import gymnasium\n"
        "from agents import BudgetToyEnv\n"
        "class Buggy(BudgetToyEnv):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        {}[[]]\n"
        "gymnasium.register('Buggy-v0', Buggy)\n"
    )
    command = [sys.executable, "-m", "agents.train", "--algo", "a2c_lag", "--env", "buggy:Buggy-v0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "unhashable type: 'list'" in done.stderr


# -- stopping --------------------------------------------------------------------------------------


class Work:
    stop = False


def test_a_second_ctrl_c_interrupts():
    work, before = Work(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stopping("stopping", work):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert work.stop
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_for_an_end(number, capfd):
    work, before = Work(), [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with stopping("stopping soon", work):
        os.kill(os.getpid(), number)
        assert work.stop
    assert "stopping soon\n" in capfd.readouterr().err
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_of_the_main_thread_nothing_happens():
    done = []

    def work():
        with stopping("stopping", Work()):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-2", -2),
        ("None", None),
        ("True", True),
        ("[1, 'a']", [1, "a"]),
        ("(1, 2)", [1, 2]),
        ("{'net_arch': [8]}", {"net_arch": [8]}),
        ("small", "small"),
        ("'1'", "1"),
        ("folder:/data/x", "folder:/data/x"),
        ("a=b", "a=b"),
    ],
)
def test_values(text, value):
    assert parse_values("--set", [f"key={text}"]) == {"key": value}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("key", r"--set 'key': expected KEY=VALUE"),
        ("=1", r"expected KEY=VALUE"),
        ("key=true", r"'key=true': write True, as in Python"),
        ("key=null", r"write None"),
        ("key=__import__('os').getcwd()", r"is no Python literal"),
        ("key=1e-", r"'1e-' is no Python literal"),
        ("key={1, 2}", r"Only what JSON can hold"),
        ("key=1e999", r"Only what JSON can hold"),
    ],
)
def test_values_that_are_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        parse_values("--set", [pair])
    with pytest.raises(ValueError, match="given twice"):
        parse_values("--set", ["a=1", "a=2"])


def test_words_of_files_move_no_cursor(capsys):
    say("a\x1b[2J\nb")
    with pytest.raises(SystemExit):
        fail("c\x1b[2J", 2)
    said = capsys.readouterr()
    assert said.out == "a\\x1b[2J\nb\n"
    assert "\x1b" not in said.err
