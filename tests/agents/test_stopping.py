"""One flag of the process: what signals do to work, to commands and to programs of others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from agents.stopping import (
    Stopped,
    check_stop,
    finish_pieces,
    finishing,
    is_command,
    request_stop,
    stop_requested,
    stopping,
)

posix = pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to one process")


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_next_step_raises(number):
    steps = []
    with pytest.raises(KeyboardInterrupt, match="a stop was asked for"), stopping():  # noqa: PT012
        for step in range(3):
            check_stop()
            steps.append(step)
            interrupt(number)
            assert stop_requested()
    assert steps == [0]
    assert not stop_requested()
    check_stop()


@posix
def test_what_python_drops_is_not_lost():
    class Holder:
        def __del__(self):
            interrupt()

    with pytest.raises(Stopped), stopping():  # noqa: PT012
        Holder()
        check_stop()


@posix
def test_the_innermost_words_are_said_and_every_work_is_stopped(capfd):
    class Work:
        stop = False

    outer, inner, later = Work(), Work(), Work()
    with stopping("outer", outer), stopping("inner", inner):
        interrupt()
        assert outer.stop
        assert inner.stop
        with stopping("later", later):  # what begins after it does not begin
            assert later.stop
    assert capfd.readouterr().err == "\ninner\n"


def test_a_piece_is_finished():
    with stopping():
        request_stop()
        with finishing():
            check_stop()
            with finishing():
                check_stop()
            check_stop()
        with pytest.raises(Stopped):
            check_stop()


def test_threads_that_are_handed_their_pieces_finish_them():
    found = []

    def work(prepare):
        prepare()
        try:
            check_stop()
            found.append("finished")
        except Stopped:
            found.append("stopped")

    with stopping():
        request_stop()
        for prepare in (finish_pieces, lambda: None):
            thread = threading.Thread(target=work, args=(prepare,))
            thread.start()
            thread.join()
    assert found == ["finished", "stopped"]


def test_this_is_no_command(monkeypatch):
    assert not is_command()
    monkeypatch.setattr(sys, "argv", ["-m"])
    for words, expected in (
        (["python", "-m", "prune_gym", "prune"], True),
        (["python", "-X", "dev", "-m", "agents.train"], True),
        (["python", "-m", "agents.benchmark", "random"], True),
        (["python", "-m", "pytest", "-m", "prune_gym"], False),
    ):
        monkeypatch.setattr(sys, "orig_argv", words)
        assert is_command() is expected
    monkeypatch.setattr(sys, "argv", ["/usr/bin/prune-gym", "list"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "/usr/bin/prune-gym", "list"])
    assert is_command()
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "a process of multiprocessing"])
    assert not is_command()


COMMAND = """
import itertools, time, weakref
from agents.stopping import check_stop, ending, stopping, take_over
take_over()
{before}
with stopping("the first"), ending(lambda: print("cleaned up", flush=True)):
    print("ready", flush=True)
    {hang}
    check_stop()
"""
HANGS = {
    "Python": "while True: time.sleep(0.01)",
    "C": "sum(itertools.repeat(0))",
    "stubborn": "exec('while True:\\n try: time.sleep(9)\\n except BaseException: pass')",
    "weakref": "weakref.ref(type('A', (), {})(), lambda _: [time.sleep(1) for _ in range(99)])",
    "nothing": "time.sleep(1)",
}


def command(hang, before="", *, signals, gap=0.2):
    """Exit code and what was said by a command that hangs, after some signals."""
    code = COMMAND.format(hang=hang, before=before)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        for number in signals:
            time.sleep(gap)
            process.send_signal(number)
        said, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, first + said, errors


@posix
@pytest.mark.parametrize("hang", [name for name in HANGS if name != "nothing"])
def test_a_second_signal_ends_a_command_that_hangs(hang):
    if hang == "C" and sys.platform != "linux":
        pytest.skip("needs the C library of GNU")
    code, said, errors = command(HANGS[hang], signals=[signal.SIGINT] * 2)
    assert "Traceback" not in errors
    if hang == "C":  # Python never saw the first one
        assert code == -signal.SIGINT
        return
    assert code == 130
    assert said == "ready\ncleaned up\n"
    assert errors == "\nthe first\n\nstopped at once.\n"


@posix
def test_a_signal_before_there_is_work_ends_a_command():
    before = "print('importing', flush=True); time.sleep(30)"
    code, said, errors = command("", before, signals=[signal.SIGTERM])
    assert (code, said, errors) == (130, "importing\n", "\nstopped; nothing was begun.\n")
