"""`benchmarks/criteria.py`: its verdict, its resuming, and one run of each kind."""

from __future__ import annotations

import importlib
import json

import pytest


@pytest.fixture
def benchmark(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    return importlib.import_module("criteria")


def test_verdict(benchmark):
    found = benchmark.verdict({"l1": [0.5, 0.7], "taylor": [0.8, 0.8], "random": [0.7, 0.75]})
    assert found["best"] == "taylor"
    assert found["spread"] == pytest.approx(((0.02 + 0.00125) / 2) ** 0.5)  # of those that vary
    assert found["within"] == ["random"]
    assert "It gains 0.075 over random scores, no more than the spread." in found["words"]
    clear = benchmark.verdict({"l1": [0.9, 0.91], "random": [0.1, 0.12]})
    assert "No other is within it. It gains 0.795 over random scores, more" in clear["words"]
    assert benchmark.verdict({"l1": [0.5]})["spread"] == 0.0


def test_rows_are_kept_and_must_be_equal(benchmark, tmp_path):
    calls = []

    def make(criterion, evaluations):
        calls.append(criterion)
        return {"criterion": criterion, "asked": evaluations}

    rows = [benchmark.once(tmp_path / "l1.json", make, "l1", n) for n in (16, 32)]
    assert calls == ["l1"]
    assert json.loads((tmp_path / "l1.json").read_text()) == rows[0] == rows[1]
    benchmark.check_equal(rows, 16)
    with pytest.raises(SystemExit, match=r"rows of \[16\] evaluations, not 32; choose another"):
        benchmark.check_equal(rows, 32)


def test_runs(benchmark, monkeypatch):
    row = benchmark.searched("bn_scale", "uniform", 0, 4)
    assert (row["criterion"], row["algo"], row["asked"], row["evaluations"]) == (
        *("bn_scale", "uniform"),
        *(4, 4),
    )
    monkeypatch.setattr(benchmark, "PIXELS", (8, 128))
    monkeypatch.setattr(benchmark, "PIXEL_STEPS", 60)
    monkeypatch.setattr(benchmark, "TUNING_STEPS", 20)
    pixels = benchmark.selected("random", 0)
    assert list(pixels["accuracy"]) == ["8", "128"]
    assert pixels["accuracy"]["8"] < pixels["accuracy"]["128"] <= 1.0
