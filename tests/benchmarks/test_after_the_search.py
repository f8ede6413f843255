"""`benchmarks/rounds.py` and `finetune_schedule.py`: rows are made once, and tables printed."""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def module(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    return importlib.import_module


def test_rounds_and_one_search(module, monkeypatch, tmp_path, capsys):
    rounds = module("rounds")
    monkeypatch.setattr(rounds, "ROUNDS", (1, 2))
    monkeypatch.setattr(rounds, "LIMITS", (0.25,))
    monkeypatch.setattr(rounds, "EVALUATIONS", 4)
    out = tmp_path / "out.json"
    line = ["rounds.py", "--seeds", "1", "--steps", "4", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", line)
    rounds.main()
    first, said = out.read_text(), capsys.readouterr().out
    one, two = json.loads(first)["rounds"]
    assert (one["rounds"], two["rounds"]) == (1, 2)
    assert max(one["costs"]["params"], two["costs"]["params"]) <= 0.25
    assert "limit 0.25, steps 4" in said
    monkeypatch.setattr(rounds, "in_rounds", lambda key: pytest.fail("it is there"))
    rounds.main()
    assert out.read_text() == first


def test_the_schedule_is_judged_on_the_whole_validation_split(module, monkeypatch, default_problem):
    schedule = module("finetune_schedule")
    bench = schedule.Bench("resnet20-macs", "folder")
    vars(bench)["problem"] = default_problem
    monkeypatch.setattr(schedule, "load_dataset", lambda name: default_problem.data)
    made = SimpleNamespace(steps=None)
    training = schedule.Training

    def short(*words, **given):
        made.steps = given["steps"]
        return training(*words, **{**given, "steps": 2})

    monkeypatch.setattr(schedule, "Training", short)
    keys = schedule.keys("resnet20-macs", [1, 5], 2)
    assert len(keys) == 2 * 2 * len(schedule.SETTINGS)
    assert min(key["seed"] for key in keys) >= 100  # no seed of a table
    row = bench.row(keys[0])
    assert made.steps == len(default_problem.data.train) // 100
    assert 0.0 <= row["validation"] <= 1.0


def test_the_schedule_table_counts_its_seeds(module, capsys):
    rows = [
        {"problem": "p", "epochs": n, "peak": 0.1, "distillation": 0.0, "validation": score}
        for n, score in ((1, 0.5), (1, 0.6), (5, 0.9))
    ]
    module("finetune_schedule").show(rows)
    assert "| p | 0.1 | 0.0 | 0.5500 (2) | 0.9000 (1) |" in capsys.readouterr().out
