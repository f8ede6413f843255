"""``python -m prune_gym.tables``: make, list, show, stop and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from prune_gym import load_table
from prune_gym.cli.tables import app

TWO = ["make", "--network", "small", "--level", "0.25", "--level", "1"]


def call(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def test_make_and_show(tmp_path):
    said = call(*TWO, "--out", tmp_path / "small.npz")
    assert "PruneTable(small on digits, 256 networks, params, macs, size_bytes, energy_uj)" in said
    assert not (tmp_path / "small.partial").exists()
    table = load_table(tmp_path / "small.npz")
    assert len(table) == 256
    shown = call("show", tmp_path / "small.npz", "--budget", "params=0.1")
    assert "features.0: 4, 16 of 16 filters" in shown
    assert f"accuracy {table.optimum(0.1).accuracy:.4f}" in shown
    assert "within params=1e-05: no network" in call(
        "show", tmp_path / "small.npz", "--budget", "params=0.00001"
    )


def test_list_names_every_recipe():
    assert "small-digits-l1" in call("list")
    assert "tiny_resnet-shapes-l1" in call("list")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["make"], "give the NAME of a table of the package, or --network NAME"),
        (["make", "smal-digits-l1"], "there is no recipe 'smal-digits-l1'"),
        ([*TWO, "--level", "2"], "expected fractions of the filters to keep"),
        ([*TWO, "--recovery", "finetune"], "a table can be made with 'none' or 'bn' only"),
        ([*TWO, "--out", "x.json"], "a table is an .npz file"),
        (["show", "nothing"], "no file, and no table of the package"),
    ],
)
def test_bad_calls_end_in_one_line(words, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call(*words, code=2)
    assert match in said
    assert said.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_goes_on(tmp_path):
    words = [sys.executable, "-m", "prune_gym.tables", *TWO, "--level", "0.5"]
    words += ["--out", str(tmp_path / "t.npz")]
    partial = tmp_path / "t.partial"
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not partial.exists() or partial.stat().st_size < 3_000:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "stopped; the same command goes on with it." in said
    whole = partial.read_bytes()
    assert not (tmp_path / "t.npz").exists()
    again = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert "networks are there already" in again.stdout.readline()
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=120)
    assert partial.read_bytes().startswith(whole)


def test_a_table_is_read_by_numpy_without_pickle(tmp_path):
    call(*TWO, "--out", tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as content:
        assert content["right"].dtype == np.uint16
        assert content["right"].shape == (*[2] * 8, 2)
