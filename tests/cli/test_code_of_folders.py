"""What a run folder names is not run, unless the user says so; nor what lies beside the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import call

import prune_gym
from prune_gym import TrustError, load_pruned
from prune_gym.problem.trust import named_code
from prune_gym.searches.run_folder import RunFolder

CANARY = """
from pathlib import Path
Path({ran!r}).touch()
raise SystemExit("the code of a folder was run")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of what is registered."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--algo", "random", "--timesteps", 64, "--budget", "params=0.5"]
    call("prune", *arguments, "--finetune-steps", 1, "--out", out)
    return out


@pytest.fixture
def copy(run, tmp_path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def ran(tmp_path, monkeypatch) -> Path:
    """A file that is there once `canary` was imported, or run as a program."""
    path, folder = tmp_path / "ran", tmp_path / "modules"
    folder.mkdir()
    (folder / "canary.py").write_text(CANARY.format(ran=str(path)))
    (folder / "canary.sh").write_text(f"#!/bin/sh\ntouch {path}\necho 1\n")
    (folder / "canary.sh").chmod(0o755)
    monkeypatch.syspath_prepend(str(folder))
    yield path
    sys.modules.pop("canary", None)


def tampered(copy, **arguments):
    """Change arguments of the problem that the folder names."""
    config = json.loads((copy / "config.json").read_text())
    config["problem"].update(arguments)
    (copy / "config.json").write_text(json.dumps(config))


def commands(copy):
    return (
        ("evaluate", copy),
        ("prune", "--resume", copy),
        ("prune", "--resume", copy, "--finish"),
        ("pick", copy, "--budget", "params=0.4"),
    )


@pytest.mark.parametrize("argument", ["network", "dataset", "criterion", "recovery", "train"])
def test_code_that_the_folder_names_is_not_run(copy, ran, argument):
    tampered(copy, **{argument: "canary:main"})
    for words in commands(copy):
        said = call(*words, code=2)
        assert f"going on would import and call {argument} 'canary:main'. Nothing was run." in said
        assert "allow it: --trust (in Python: trust=True)" in said
        assert len(said.splitlines()) == 1
    assert not ran.exists()


@pytest.mark.skipif(os.name == "nt", reason="the program is for /bin/sh")
def test_programs_that_the_folder_names_are_not_run(copy, ran):
    program = {"limit": 1.0, "command": "./canary.sh {onnx}", "folder": str(ran.parent / "modules")}
    tampered(copy, budgets={"params": 0.5, "size": program, "canary:main": 0.5})
    for words in commands(copy)[:-1]:
        said = call(*words, code=2)
        assert f"run the program './canary.sh {{onnx}}' in '{program['folder']}'" in said
        assert "import and call budget 'canary:main'" in said
    call(*commands(copy)[-1], "--finetune-steps", 0)  # asks for neither
    tampered(copy, budgets={"command:./canary.sh {onnx}": 0.5})
    assert "run the program './canary.sh {onnx}'" in call("evaluate", copy, code=2)
    assert not ran.exists()


@pytest.mark.skipif(os.name == "nt", reason="the program is for /bin/sh")
def test_a_program_of_the_same_name_elsewhere_is_another_one(copy, ran):
    program = {"limit": 1.0, "command": "./canary.sh {onnx}", "folder": str(ran.parent / "modules")}
    tampered(copy, budgets={"params": 0.5, "size": program})
    typed = ("pick", copy, "--budget", "command:./canary.sh {onnx}=0.9")
    assert "run the program './canary.sh {onnx}'" in call(*typed, code=2)
    assert not ran.exists()


def test_the_network_that_a_plan_names_is_not_imported(copy, ran):
    plan = json.loads((copy / "plan.json").read_text())
    (copy / "plan.json").write_text(json.dumps({**plan, "network": "canary:main"}))
    with pytest.raises(TrustError, match=r"plan.json names code .* import and call network 'canar"):
        load_pruned(copy)
    said = call("export", copy, "--format", "pt2", "--out", copy.parent / "out", code=2)
    assert "Or give the unpruned network: load_pruned(folder, network=...)." in said
    assert not ran.exists()
    network = prune_gym.NETWORKS.get("small")()
    assert load_pruned(copy, network) is not None  # handed over: nothing is imported
    call(
        "export", copy, "--network", "small", "--format", "safetensors", "--out", copy.parent / "s"
    )
    with pytest.raises(SystemExit, match="the code of a folder was run"):
        load_pruned(copy, trust=True)
    assert ran.exists()


def test_trust_runs_it(copy, tmp_path):
    tampered(copy, criterion="tiny:cli_criterion")
    assert "tiny:cli_criterion" in call("evaluate", copy, code=2)
    assert "within every limit" in call("evaluate", "--trust", copy)


def test_trust_is_for_folders(tmp_path):
    said = call("prune", "--trust", "--out", tmp_path / "run", code=2)
    assert "--trust goes with --resume RUN only." in said


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"network": "small", "dataset": "digits", "weights": "C:\\x", "device": "cuda:0"}, []),
        ({"dataset": "folder:/photos"}, []),
        ({"network": "folder:/photos"}, ["import and call network 'folder:/photos'"]),
        ({"later": [{"x": "m:f"}]}, ["import and call later 'm:f'"]),
        ({"budgets": {"params": 0.1, "m:f": 0.1}}, ["import and call budget 'm:f'"]),
    ],
    ids=str,
)
def test_what_counts_as_code(arguments, found):
    assert named_code(arguments) == found
    assert named_code(arguments, given=["m:f"]) == [
        word for word in found if "budget 'm:f'" not in word
    ]


def test_an_unpruned_network_that_is_said_to_be_larger(copy):
    tampered(copy, unpruned_values={"params": 1e12})
    said = call("evaluate", copy, code=2)
    assert "the unpruned network has params 1e+12, and it has 579498" in said


@pytest.mark.parametrize("command", ["evaluate", "inspect"])
def test_the_network_counts_and_not_the_plan(copy, command):
    plan = json.loads((copy / "plan.json").read_text())
    for group in plan["groups"]:
        group["kept"] = [0]
    (copy / "plan.json").write_text(json.dumps(plan))
    said = call(command, copy, code=2)
    assert "the two files are of different networks" in said
    assert "within every limit" not in said


def test_names_do_not_get_into_the_page(copy):
    """Layers and budgets have names that a page, or a terminal, could take for its own."""
    from prune_gym.cli.report import write_report

    folder, config = RunFolder.open(copy)
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["algo"] = "<script>alert(1)</script>"
    (copy / "metrics.json").write_text(json.dumps(metrics))
    (copy / "versions.json").write_text(json.dumps({"<img src=x>": "<b>"}))
    page = write_report(folder, config).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img src=x>" not in page


# -- where modules are looked up -------------------------------------------------------------------

SHADOWS = ("torch", "queue", "json", "typing", "random", "numpy", "rich", "gymnasium", "rliable")


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "prune_gym", "list", "budgets"),
        ("-m", "prune_gym", "prune", "--network", "own:build", "--help"),
        ("-m", "agents.train", "--help"),
        ("-m", "agents.compare", "--help"),
        ("-P", "-c", "from prune_gym.cli.main import main; main()", "list", "budgets"),
    ],
    ids=" ".join,
)
def test_modules_in_the_working_folder_take_no_place(tmp_path, root, command):
    if command[0] == "-P" and sys.version_info < (3, 11):
        pytest.skip("Python has no such option")
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(CANARY.format(ran=str(tmp_path / "ran")))
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_own_modules_are_found_in_the_working_folder_last(tmp_path, root):
    (tmp_path / "torch.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "own.py").write_text("def build():\n    raise ValueError('mine was called')\n")
    code = (
        "import sys; from prune_gym.networks import NETWORKS; before = list(sys.path);"
        "NETWORKS.get('own:build'); print(sys.path == [*before, ''])"
    )
    done = subprocess.run(
        [sys.executable, "-m", "prune_gym", "inspect", "--network", "own:build"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "mine was called" in done.stderr
    script = tmp_path / "elsewhere" / "main.py"
    script.parent.mkdir()
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"
