"""Run folders are data: whatever lies in one ends in one line that names file and field."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import prune_gym
from prune_gym import CheckpointError, load_pruned, search
from prune_gym.cli.prune import problem_of
from prune_gym.errors import RunFolderError
from prune_gym.problem.archive import Archive, Front
from prune_gym.problem.saving import load_with_masks, read_plan
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.search import Search


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_problem):
    """A run of ten networks."""
    out = tmp_path_factory.mktemp("runs") / "run"
    search(tiny_problem, "random", evaluations=10, out=out)
    return out


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def changed(file, place, value):
    """Set a value in a JSON file; ``place`` are its keys, `...` as value removes it."""
    content = json.loads(file.read_text())
    held = content
    for key in place[:-1]:
        held = held[key]
    if value is ...:
        del held[place[-1]]
    else:
        held[place[-1]] = value
    file.write_text(json.dumps(content))


NESTED = b"[" * 100_000
NUMBER = b'{"format": ' + b"9" * 100_000 + b"}"


# -- every JSON file -------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe{}", NESTED, NUMBER, b"null"])
@pytest.mark.parametrize("name", ["config.json", "plan.json", "state.json", "metrics.json"])
def test_what_is_no_json_object(copy, name, content):
    (copy / name).write_bytes(content)
    with pytest.raises((RunFolderError, CheckpointError), match=rf"{name} is damaged: ") as error:
        read(copy, name)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


def read(folder, name):
    if name == "plan.json":
        return read_plan(folder)
    if name == "config.json":
        return RunFolder.open(folder)
    return RunFolder(folder).read_json(name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
@pytest.mark.parametrize("name", ["config.json", "plan.json", "state.json", "episodes.csv"])
def test_something_else_in_the_place_of_a_file(copy, name, kind):
    (copy / name).unlink(missing_ok=True)
    if kind == "folder":
        (copy / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(copy / name)
    else:
        (copy / name).symlink_to("nowhere")
    with pytest.raises((RunFolderError, CheckpointError), match=rf"{name} is no file, but a fold"):
        RunFolder(copy).read_episodes() if name == "episodes.csv" else read(copy, name)


def test_a_file_that_is_too_large(copy):
    with (copy / "config.json").open("ab") as file:
        file.truncate(10**12)  # a hole
    with pytest.raises(
        RunFolderError, match=r"config.json is damaged: it has more than 16,777,216"
    ):
        RunFolder.open(copy)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["timesteps"], "30", r"timesteps is '30': it should be a valid integer"),
        (["timesteps"], 10**30, r"timesteps is 10+: it should be less than or equal"),
        (["timesteps"], True, r"timesteps is True: it should be a valid integer"),
        (["seed"], -1, r"seed is -1: it should be greater than or equal to 0"),
        (["distillation"], float("nan"), r"distillation is nan: it should be"),
        (["env"], "os:Env-v0", r"env is 'os:Env-v0': unknown environment 'os:Env-v0'"),
        (["algo"], "\x1b[2J", r"algo is '\\x1b\[2J': it holds control characters"),
        (["algo"], ..., r"algo is missing"),
        (["more"], 1, r"more is a key that does not belong there"),
        (["problem"], [], r"problem is \[\]: it should be a valid dictionary"),
        (["groups", "features.0"], -4, r"groups.features.0 is -4: it should be greater"),
        (["problem", "device"], "meta", r"problem.device is 'meta': "),
        (["problem", "round_to"], 0, r"problem.round_to is 0: it should be greater than or eq"),
        (
            ["problem", "structure"],
            "rows",
            r"problem.structure is 'rows': it should be 'filter' or",
        ),
        (["problem", "weights"], 3, r"problem.weights is 3: it should be a valid string"),
        (["problem", "budgets"], {"params": []}, r"problem.budgets.params is \[\]: "),
        (["problem", "budgets"], {"x": {"limit": 1}}, r"problem.budgets.x.command is missing"),
        (["problem", "unpruned_values"], {"params": -1}, r"unpruned_values.params is -1: "),
    ],
)
def test_fields_of_the_configuration(copy, place, value, message):
    changed(copy / "config.json", place, value)
    with pytest.raises(RunFolderError, match=rf"config.json is damaged: .*{message}"):
        RunFolder.open(copy)


def test_an_argument_that_make_problem_does_not_have(copy):
    changed(copy / "config.json", ["problem"], {"network": "small", "colour": "red"})
    with pytest.raises(RunFolderError, match=r"make_problem has no argument 'colour'"):
        problem_of(*RunFolder.open(copy), trust=False)


def test_an_algorithm_that_there_is_not(copy, tiny_problem):
    changed(copy / "config.json", ["algo"], "os:system")
    with pytest.raises(ValueError, match=r"unknown algorithm 'os:system'"):
        search(tiny_problem, evaluations=12, out=copy, resume=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("state.json", {"wall_s": "x"}, r"wall_s is 'x': it should be a valid number"),
        ("state.json", {"remembered": -1}, r"remembered is -1"),
        ("state.json", {"other": 1}, r"other is a key that does not belong there"),
        ("metrics.json", {"feasible": 1}, r"metrics.json is damaged: feasible is 1"),
        ("versions.json", {"python": 3}, r"python is 3: it should be a valid string"),
    ],
)
def test_fields_of_the_other_files(copy, name, content, message):
    (copy / name).write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=message):
        RunFolder(copy).read_json(name)


# -- the log ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (1, "much", r"in row 1 accuracy is 'much', no number"),
        (1, "nan", r"in row 1 accuracy is 'nan', which cannot be"),
        (2, "-1", r"in row 1 cost is '-1', which cannot be"),
        (2, "inf", r"in row 1 cost is 'inf', which cannot be"),
        (3, "yes", r"in row 1 feasible is 'yes', no number"),
        (3, "2", r"in row 1 feasible is '2', which cannot be"),
        (-1, "1.5", r"in row 1 kept_.* is '1.5', which cannot be"),
        (-1, "1,1", r"in row 1 it has too many or too few columns"),
    ],
)
def test_rows_of_the_log(copy, column, value, message):
    head, first, *others = (copy / "episodes.csv").read_text().splitlines()
    cells = first.split(",")
    cells[column] = value
    (copy / "episodes.csv").write_text("\n".join([head, ",".join(cells), *others, ""]))
    with pytest.raises(RunFolderError, match=rf"episodes.csv is damaged: {message}"):
        RunFolder(copy).restore(Archive())


def test_a_log_that_is_too_good_to_be_true(copy, tiny_problem):
    head, first, *others = (copy / "episodes.csv").read_text().splitlines()
    cells = first.split(",")
    cells[2], cells[3], cells[5] = "0.9", "1", "0.9"
    (copy / "episodes.csv").write_text("\n".join([head, ",".join(cells), *others, ""]))
    with pytest.raises(RunFolderError, match=r"row 1 is said to be within every limit, and its co"):
        search(tiny_problem, evaluations=12, out=copy, resume=True)
    text = (copy / "episodes.csv").read_text().replace("cost_params", "cost_macs")
    (copy / "episodes.csv").write_text(text)
    with pytest.raises(RunFolderError, match=r"is of another problem: row 1 has costs of macs"):
        search(tiny_problem, evaluations=12, out=copy, resume=True)


# -- the front -------------------------------------------------------------------------------------


def arrays_of(copy):
    with np.load(copy / "front.npz") as held:
        return dict(held)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("numbers", lambda x: x - 99, r"numbers must be 1 or above, each once"),
        ("numbers", lambda x: x.astype(float), r"numbers is .* float64, and must be"),
        ("accuracies", lambda x: x * np.nan, r"must be finite numbers"),
        ("costs", lambda x: -x, r"must be finite numbers, costs 0 or above"),
        ("costs", lambda x: x[:, :1], r"costs is \(\d+, 1\) float64, and must be"),
        ("bits", lambda x: x * 0, r"bits keep nothing of a filter group"),
        ("bits", lambda x: x[:, :1], r"bits is \(\d+, 1\) uint8, and must be"),
        ("sizes", lambda x: x + 2**40, r"bits is .*, and must be"),
        ("sizes", lambda x: -x, r"bits is .*, and must be|sizes of 1 or above"),
        ("names", lambda x: np.repeat(x[:1], len(x)), r"names must be different"),
        ("names", lambda x: x.astype(object), r"front.npz is damaged: .*names is of type object"),
    ],
)
def test_arrays_of_the_front(copy, name, change, message):
    arrays = arrays_of(copy)
    arrays[name] = change(arrays[name])
    np.savez(copy / "front.npz", **arrays)
    with pytest.raises(RunFolderError, match=message):
        Front.load(copy / "front.npz", RunFolderError)


def npy(shape, dtype="<f8", content=b""):
    """An ``.npy`` file that claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"shape": shape, "fortran_order": False, "descr": dtype}
    )
    return file.getvalue() + content


@pytest.mark.parametrize(
    ("content", "compression", "message"),
    [
        (
            npy((10**12,)),
            zipfile.ZIP_STORED,
            r"costs claims the shape \(1000000000000,\) and has 0",
        ),
        (npy((10**12,), "<U0"), zipfile.ZIP_STORED, r"costs claims the shape"),
        (npy((-1,)), zipfile.ZIP_STORED, r"costs claims the shape \(-1,\)"),
        (npy((4,), "|O", b"x" * 32), zipfile.ZIP_STORED, r"costs is of type object"),
        (npy((10**6,), "<f8", bytes(8 * 10**6)), zipfile.ZIP_DEFLATED, r"costs is compressed"),
        (b"\x93NUMPY\x01\x00\xff\xff{", zipfile.ZIP_STORED, r"front.npz is damaged"),
    ],
)
def test_headers_of_the_front(copy, content, compression, message):
    names = ("names", "sizes", "numbers", "accuracies", "bits")
    held = {name: npy((0,)) for name in names} | {"costs": content}
    with zipfile.ZipFile(copy / "front.npz", "w", compression) as archive:
        for name in ("costs", *names):
            archive.writestr(f"{name}.npy", held[name])
    with pytest.raises(RunFolderError, match=message):
        Front.load(copy / "front.npz", RunFolderError)


def test_a_front_that_lies_about_its_masks(copy, tiny_problem):
    arrays = arrays_of(copy)
    np.savez(copy / "front.npz", **{**arrays, "costs": arrays["costs"] / 2})
    with pytest.raises(RunFolderError, match=r"is said to have params .*, and by its masks it has"):
        search(tiny_problem, evaluations=12, out=copy, resume=True)


# -- the network -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["structure"], "rows", r"structure is 'rows'"),
        (["structure"], "weight", r"kept of 'features.0' does not go with 'weight'"),
        (["arguments", "in_channels"], 10**12, r"arguments.in_channels is 1000000000000"),
        (["arguments", "n_classes"], "3", r"arguments.n_classes is '3'"),
        (["arguments", "other"], 1, r"arguments.other is a key that does not belong there"),
        (["groups"], [], r"groups is \[\]"),
        (["groups", 0, "kept"], [99], r"kept must hold indices below 4"),
        (["groups", 0, "kept"], [1, 0], r"each once, in order"),
        (["groups", 0, "kept"], [1, 1], r"each once, in order"),
        (["groups", 0, "kept"], [-1], r"groups\[0\].kept\[0\] is -1"),
        (["groups", 0, "kept"], [], r"one at least"),
        (["groups", 0, "kept"], [True], r"groups\[0\].kept\[0\] is True"),
        (["groups", 0, "filters"], 10**30, r"groups\[0\].filters is 10+"),
        (["groups", 0, "name"], "features.4", r"groups holds a name twice"),
        (["mean"], [float("inf")], r"mean\[0\] is inf"),
        (["network"], 3, r"network is 3"),
        (["groups"], ..., r"groups is missing"),
        (["more"], 1, r"more is a key that does not belong there"),
    ],
)
def test_fields_of_the_plan(copy, tiny_problem, place, value, message):
    changed(copy / "plan.json", place, value)
    with pytest.raises(CheckpointError, match=rf"plan.json is damaged: .*{message}"):
        load_pruned(copy, tiny_problem.network)


def test_a_plan_that_keeps_less_than_the_tensors_hold(copy, tiny_problem):
    for row in range(3):
        changed(copy / "plan.json", ["groups", row, "kept"], [0])
    for load in (load_pruned, lambda folder, _: load_with_masks(folder, tiny_problem)):
        with pytest.raises(CheckpointError, match=r"the two files are of different networks"):
            load(copy, tiny_problem.network)


def test_single_weights_that_are_more_than_the_plan_says(tmp_path):
    problem = tiny.make_tiny(structure="weight", budgets={"params": 0.9})
    search(problem, "random", evaluations=6, out=tmp_path / "run")
    changed(tmp_path / "run" / "plan.json", ["groups", 0, "kept"], 1)
    with pytest.raises(CheckpointError, match=r"plan.json keeps 1 of 36 weights .* are not zero"):
        load_with_masks(tmp_path / "run", problem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.repeat(9, 1, 1, 1),
            r"is \(\d+, 1, 3, 3\), and in the unpruned VGG it is \(4, ",
        ),
        (lambda t: t[0], r"is \(1, 3, 3\), and in the unpruned VGG"),
        (lambda t: t.double(), r"is torch.float64, and in VGG it is torch.float32"),
        (lambda t: t.half(), r"is torch.float16, and in VGG it is torch.float32"),
    ],
)
def test_tensors_of_another_kind(copy, tiny_problem, change, message):
    path = copy / "network.safetensors"
    tensors = load_file(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["features.0.weight"] = change(tensors["features.0.weight"]).contiguous()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=rf"tensor 'features.0.weight' {message}"):
        load_pruned(copy, tiny_problem.network)


@pytest.mark.parametrize("claimed", [2**63, 2**40, 10])
def test_headers_of_the_tensors(copy, tiny_problem, claimed):
    (copy / "network.safetensors").write_bytes(struct.pack("<Q", claimed) + b"{" * 100)
    with pytest.raises(CheckpointError, match=r"is not a readable safetensors file"):
        load_pruned(copy, tiny_problem.network)


def test_absurd_arguments_of_a_registered_network_cost_no_memory(tmp_path, default_problem):
    masks = tiny.random_masks(default_problem, 0)
    network = default_problem.evaluate(masks).network
    prune_gym.save_pruned(tmp_path, network, default_problem, masks, "small")
    changed(tmp_path / "plan.json", ["input_shape"], ...)
    changed(tmp_path / "plan.json", ["arguments", "in_channels"], 2**31)  # 1.2 TB of weights
    loaded = load_pruned(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items())


def test_a_run_of_an_earlier_version_is_read(copy, tiny_problem):
    for key in ("distillation", "hard", "folder", "limits", "groups"):
        changed(copy / "config.json", [key], ...)
    for key in ("input_shape", "mean", "std"):
        changed(copy / "plan.json", [key], ...)
    (copy / "state.json").unlink(missing_ok=True)
    folder, config = RunFolder.open(copy)
    assert Search(tiny_problem, config, folder).archive.best_masks is not None
    load_pruned(copy, tiny_problem.network)
