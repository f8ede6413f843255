"""`benchmarks/paper_table.py`, with runs that are written instead of searched, but for one."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

ASKED = {
    "dataset": "tiny:cli_dataset",
    "evaluations": 10,
    "evaluation-samples": 20,
    "finetune-steps": 5,
    "device": "cpu",
}
CHILD = """
import signal, sys, time
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
open(sys.argv[1], "w").close()
while not seen:
    time.sleep(0.01)
time.sleep(0.5)
open(sys.argv[1], "w").write(str(len(seen)))
sys.exit(130)
"""
PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may have been inherited as ignored
folder, child, seen, out = sys.argv[1:]
sys.path.insert(0, folder)
import paper_table
paper_table.COMMAND = [sys.executable, "-c", child]
paper_table.train_dense = lambda *_: None
paper_table.run = lambda *_: paper_table.call([seen], float("inf"))
paper_table.Task.difference = lambda *_: ""
sys.argv[1:] = ["--folder", out, "--rows", "small", "--out", out + "/out.json"]
sys.exit(paper_table.main())
"""


@pytest.fixture
def modules(monkeypatch, root):
    monkeypatch.syspath_prepend(root / "benchmarks")
    return importlib.import_module("paper_table"), importlib.import_module("paper_cells")


@pytest.fixture
def script(modules, monkeypatch, tmp_path):
    """The script's main with small options; dense networks are there already."""
    paper_table, _ = modules
    monkeypatch.setattr(paper_table, "train_dense", lambda *_: None)

    def main(*words, **options):
        given = {"folder": tmp_path / "runs", "out": tmp_path / "out.json"} | ASKED | options
        line = ["paper_table.py", *words]
        for name, value in given.items():
            line += [f"--{name}", str(value)]
        monkeypatch.setattr(sys, "argv", line)
        return paper_table.main()

    return main


SMALL = ("--rows", "small", "--columns", "filters-10", "--algorithms", "random")


def write_run(out, options, *, feasible, rows, test=0.8):
    """What a search leaves behind."""
    out.mkdir(parents=True, exist_ok=True)
    limit = float(options["budget"].removeprefix("params="))
    problem = {key: options[key] for key in ("network", "dataset", "structure", "device")}
    problem |= {"budgets": {"params": limit}}
    problem["evaluation_samples"] = int(options["evaluation-samples"])
    config = {"env": options["env"], "algo": options["algo"], "problem": problem}
    config |= {key: int(options[key]) for key in ("timesteps", "seed")}
    config["finetune_steps"] = int(options["finetune-steps"])
    (out / "config.json").write_text(json.dumps(config))
    (out / "versions.json").write_text('{"torch": "0"}')
    (out / "state.json").write_text('{"wall_s": 3.0}')
    (out / "command.txt").write_text(f"prune-gym prune --dataset folder:/a/b --out {out}\n")
    head = "episode,accuracy,cost,feasible,multiplier,cost_params\n"
    lines = [f"{n},0.5,{0.2 + n / 100},{int(feasible)},nan,{0.2 + n / 100}\n" for n in range(rows)]
    (out / "episodes.csv").write_text(head + "".join(lines))
    if feasible:
        names = ("dense", "raw", "recovered", "finetuned")
        scores = {f"{name}_validation": 0.5 for name in names}
        scores |= {"dense_test": test, "finetuned_test": test}
        sizes = {"params": 100.0, "macs": 100.0}
        metrics = {"feasible": True, "accuracy": scores, "dense": sizes, "pruned": sizes}
        metrics |= {"latency_ms": {"dense": 2.0, "pruned": 1.0}, "latency_batch": 1}
        metrics |= {"costs": {"params": 0.1}, "limits": {"params": 0.1}, "structure": "filter"}
        metrics |= {"algo": "random", "timesteps": 8, "seed": 0, "finetune_steps": 5}
        metrics |= {"evaluations": rows}
        (out / "metrics.json").write_text(json.dumps(metrics | {"search_s": 1.0, "wall_s": 2.0}))


@pytest.fixture
def fake(modules, monkeypatch):
    """Takes the place of `call`; change its attributes to change what runs come to."""

    class Fake:
        def __init__(self):
            self.calls, self.code, self.rows, self.test = [], 0, 10, 0.8
            self.fails = ()

        def __call__(self, command, ends):
            self.calls.append(command)
            if command[1] == "--resume":
                return self.code
            pairs = zip(command[1::2], command[2::2], strict=True)
            options = {name.removeprefix("--"): value for name, value in pairs}
            if options["algo"] in self.fails:
                return 3
            out = modules[0].Path(options["out"])
            write_run(out, options, feasible=self.code == 0, rows=self.rows, test=self.test)
            return self.code

    made = Fake()
    monkeypatch.setattr(modules[0], "call", made)
    return made


def cells_of(tmp_path):
    return json.loads((tmp_path / "out.json").read_text())["cells"]


def test_finished_runs_become_cells_and_are_not_repeated(script, fake, tmp_path, capsys):
    assert script(*SMALL) == script(*SMALL) == 0
    assert len(fake.calls) == 1
    (cell,) = cells_of(tmp_path)
    assert cell["feasible"]
    assert cell["dataset"] == "tiny:cli_dataset"
    assert (cell["evaluations"], cell["finetune_steps"]) == (10, 5)
    assert cell["commands"] == [
        "prune-gym prune --dataset folder:DATA/b --out RUNS/small-filters-10-random-0"
    ]
    assert str(tmp_path) not in json.dumps(cell)
    assert (
        "| small | tiny:cli_dataset | filters-10 | random (0) | 0.8000 |" in capsys.readouterr()[0]
    )


def test_a_search_that_finds_nothing_is_a_cell_and_is_not_resumed(script, fake, tmp_path, capsys):
    fake.code = 1
    assert script(*SMALL) == script(*SMALL) == 0
    assert len(fake.calls) == 1
    (cell,) = cells_of(tmp_path)
    assert (cell["feasible"], cell["lowest_cost"], cell["episodes"]) == (False, 0.2, 10)
    assert "nothing_feasible" not in cell
    assert "nothing within the limit 0.1: lowest 0.2000" in capsys.readouterr().out


def test_a_crash_within_the_search_is_no_result(script, fake, tmp_path, capsys):
    """A bug ends with status 1 as well, before the evaluations are spent."""
    fake.code, fake.rows = 1, 1
    assert script(*SMALL) == 1
    assert cells_of(tmp_path) == []
    assert "failed: small-filters-10-random-0: prune-gym prune" in capsys.readouterr().out
    assert script(*SMALL) == 1
    assert fake.calls[1][:2] == ["prune", "--resume"]


def test_after_a_failure_the_other_cells_are_run(script, fake, tmp_path, capsys):
    fake.fails = ("uniform", "cem")
    assert script("--rows", "small", "--columns", "filters-5") == 1
    assert [cell["algo"] for cell in cells_of(tmp_path)] == ["ppo_lag", "random"]
    said = capsys.readouterr().out
    assert "ended with exit status 3" in said
    assert "| small | - | filters-5 | uniform, cem | not run |" in said


def test_a_dense_training_that_fails_costs_its_row_only(
    script, modules, fake, tmp_path, monkeypatch
):
    def train(network, arguments, ends):
        if network == "small":
            raise modules[0].FailedError("no")

    monkeypatch.setattr(modules[0], "train_dense", train)
    rows = ("--rows", "small", "small_resnet", *SMALL[2:])
    assert script(*rows) == 1
    assert [cell["row"] for cell in cells_of(tmp_path)] == ["small_resnet"]


def test_code_and_machine_are_those_of_the_beginning(script, modules, fake, tmp_path, monkeypatch):
    now = {"commit": "first", "dirty": False, "device": "GPU", "machine": "there"}
    monkeypatch.setattr(modules[1], "facts", lambda device: now)
    script(*SMALL)
    assert (
        json.loads((tmp_path / "runs" / "small-filters-10-random-0.benchmark.json").read_text())
        == now
    )
    monkeypatch.setattr(modules[1], "facts", lambda device: dict.fromkeys(now, "later"))
    script(*SMALL)
    (cell,) = cells_of(tmp_path)
    assert {name: cell[name] for name in now} == now
    assert cell["versions"] == {"torch": "0"}


def test_facts_name_commit_and_device(modules):
    facts = modules[1].facts("cpu")
    assert facts["device"] == "cpu"
    assert set(facts) == {"commit", "dirty", "device", "machine"}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("finetune-steps", 6, "finetune_steps was 5, is 6"),
        ("evaluations", 20, "timesteps was 80, is 160"),
        ("evaluation-samples", 21, "evaluation_samples was 20, is 21"),
        ("dataset", "digits", "dataset was 'tiny:cli_dataset', is 'digits'"),
    ],
)
def test_other_settings_are_refused(script, fake, tmp_path, capsys, option, value, said):
    script(*SMALL)
    assert script(*SMALL, **{option: value}) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Choose another --folder" in message
    assert len(fake.calls) == 1


def test_another_environment_structure_or_limit_is_refused(script, modules, fake, capsys):
    _, paper_cells = modules
    script(*SMALL)
    before = paper_cells.COLUMNS["filters-10"]
    try:
        paper_cells.COLUMNS["filters-10"] = paper_cells.Column("Other-v0", "weight", {"": 0.3})
        assert script(*SMALL) == 2
    finally:
        paper_cells.COLUMNS["filters-10"] = before
    message = capsys.readouterr().err
    for said in ("env was", "structure was 'filter', is 'weight'", "budgets was {'params': 0.1}"):
        assert said in message


def test_merging_keeps_data_sets_and_efforts_apart(script, fake, tmp_path, capsys):
    others = [{}, {"dataset": "digits"}, {"evaluations": 20}, {"finetune-steps": 6}]
    files = []
    for number, options in enumerate(others):
        files.append(tmp_path / f"{number}.json")
        script(*SMALL, folder=tmp_path / str(number), out=files[-1], **options)
    capsys.readouterr()
    assert script("--merge", *map(str, files)) == 0
    assert len(cells_of(tmp_path)) == 4
    assert capsys.readouterr().out.count("random (0)") == 4


def test_what_cannot_be_merged_is_an_error(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        script("--merge", str(tmp_path / "none.json"))
    assert error.value.code == 2
    assert "there is no file" in capsys.readouterr().err
    old = tmp_path / "old.json"
    old.write_text('{"cells": [{"run": "x"}]}')
    assert script("--merge", str(old)) == 2
    assert "holds no cells of this table" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--rows", "vgg12"), ("--algorithms", "ppo")])
def test_unknown_names_are_refused_at_once(script, fake, words, tmp_path):
    with pytest.raises(SystemExit) as error:
        script(*words)
    assert error.value.code == 2
    assert not fake.calls
    assert not (tmp_path / "out.json").exists()


def test_without_a_test_split_there_is_a_dash(script, fake, capsys):
    fake.test = None
    assert script(*SMALL) == 0
    assert "random (0) | - | 0.5000 | - | 1.0000 |" in capsys.readouterr().out


def test_one_line_for_what_a_row_and_column_lack(modules):
    lines = modules[1].table([], ["small"]).splitlines()
    assert len(lines) == 2 + 6 * 5
    assert sum(
        "| vgg16 | - | paper | ppo_lag, uniform, random, cem | not run |" in x for x in lines
    )
    assert {line.count("|") for line in lines} == {14}


def test_lines_have_the_same_number_of_columns(script, fake, tmp_path, capsys):
    fake.code = 1
    script(*SMALL)
    fake.code = 0
    script("--rows", "small", "--columns", "paper", "--algorithms", "cem")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {14}


def test_groups_are_counted_with_the_images_of_the_data(modules):
    n_groups = modules[1].n_groups
    assert n_groups("small", "filter", "tiny:cli_dataset") == 8  # one channel
    assert n_groups("vgg11", "weight", "not:loaded") == 8


def test_one_interrupt_when_the_time_is_up(modules, monkeypatch, tmp_path):
    paper_table, _ = modules
    monkeypatch.setattr(paper_table, "COMMAND", [sys.executable, "-c", CHILD])
    with pytest.raises(paper_table.TimeIsUpError):
        paper_table.call([str(tmp_path / "seen")], time.monotonic() + 3.0)
    assert (tmp_path / "seen").read_text() == "1"
    with pytest.raises(paper_table.TimeIsUpError, match="not begun"):
        paper_table.call([], 0.0)


def test_ctrl_c_twice_in_the_terminal_is_one_interrupt_for_the_search(root, tmp_path):
    """A terminal's Ctrl-C goes to the whole process group."""
    seen = tmp_path / "seen"
    words = [str(root / "benchmarks"), CHILD, str(seen), str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *words],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        ends = time.monotonic() + 60
        while not seen.exists() and time.monotonic() < ends:
            time.sleep(0.05)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.2)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert seen.read_text() == "1"
    assert "the same command goes on" in said


def test_a_real_search_that_finds_nothing(script, modules, monkeypatch, root, tmp_path, capfd):
    _, paper_cells = modules
    monkeypatch.setitem(
        paper_cells.COLUMNS, "filters-10", paper_cells.Column("PruneVGG-v0", "filter", {"": 3e-4})
    )
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = {"dataset": "digits", "evaluations": 3}
    assert script(*SMALL, **options) == 0
    assert script(*SMALL, **options) == 0
    (cell,) = cells_of(tmp_path)
    assert (cell["feasible"], cell["episodes"]) == (False, 3)
    assert 3e-4 < cell["lowest_cost"] < 1.0
    assert cell["commands"][0].endswith("--out RUNS/small-filters-10-random-0")
    assert capfd.readouterr().out.count("+ prune-gym") == 1
