"""Checkpoints and saved compact networks: round trips, and files that are missing or damaged."""

from __future__ import annotations

import errno
import json
import os

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import prune_gym
from prune_gym import CheckpointError, load_pruned, make_problem, save_pruned
from prune_gym.errors import FileError
from prune_gym.networks.checkpoints import (
    cache_dir,
    checkpoint_path,
    find_checkpoint,
    read_tensors,
    save_weights,
)
from prune_gym.networks.weight_files import load_weights
from prune_gym.problem.saving import masks_of_plan
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.saved_agent import save_agent
from prune_gym.utils.files import replacing


def saved(problem, folder, seed=0, name=None):
    """Save a pruned network of a problem; its masks and outcome."""
    masks = tiny.random_masks(problem, seed)
    outcome = problem.evaluate(masks)
    save_pruned(folder, outcome.network, problem, masks, name)
    return masks, outcome


@pytest.mark.parametrize("structure", ["filter", "weight"])
@pytest.mark.parametrize("name", ["vgg", "residual", "mobile", "unet", "flat"])
def test_round_trip(tmp_path, name, structure):
    problem = tiny.make_tiny(name, structure=structure, budgets={"params": 1.0})
    before = tiny.snapshot(problem.network)
    masks, outcome = saved(problem, tmp_path / "new" / "folder")
    network = load_pruned(tmp_path / "new" / "folder", problem.network)
    tiny.assert_unchanged(problem.network, before)
    for key, tensor in outcome.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[key])
    assert repr(network) == repr(outcome.network)
    assert problem.accuracy(network) == outcome.accuracy
    assert not network.training
    tiny.assert_identical(masks_of_plan(tmp_path / "new" / "folder", problem), masks)


def test_round_trip_by_name(tmp_path, default_problem):
    _, outcome = saved(default_problem, tmp_path, name="small")
    network = load_pruned(tmp_path)
    assert default_problem.accuracy(network) == outcome.accuracy
    assert sum(p.numel() for p in network.parameters()) == outcome.values["params"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "examples.safetensors",
        "network.safetensors",
        "plan.json",
    ]


def test_a_plan_without_a_name_needs_the_network(tmp_path, tiny_problem):
    saved(tiny_problem, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"names no network; call load_pruned\(folder, network="
    ):
        load_pruned(tmp_path)


def test_another_network(tmp_path, tiny_problem, residual_problem):
    saved(tiny_problem, tmp_path)
    with pytest.raises(CheckpointError, match=r"tensor '.*' is in only one of the file and ResNet"):
        load_pruned(tmp_path, residual_problem.network)
    with pytest.raises(CheckpointError, match=r"the plan is of another network; its groups do not"):
        masks_of_plan(tmp_path, residual_problem)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("plan.json", None, r"holds no plan.json; give a run folder of a finished search"),
        ("plan.json", b"{", r"plan.json is damaged: "),
        ("plan.json", b"", r"plan.json is damaged: "),
        ("plan.json", b"[]", r"plan.json is damaged: "),
        ("plan.json", b"{}", r"plan.json is damaged: "),
        ("plan.json", b"\xff\xfe", r"plan.json is damaged: "),
        ("plan.json", b'{"format": 99}', r"plan.json is of another format; this version reads 1"),
        ("network.safetensors", None, r"there is no file .*network.safetensors"),
        ("network.safetensors", b"", r"network.safetensors is not a readable safetensors file"),
        ("network.safetensors", b"\x08" + b"\0" * 40, r"is not a readable safetensors file"),
    ],
)
def test_damaged_folders(tmp_path, tiny_problem, file, content, message):
    saved(tiny_problem, tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_pruned(tmp_path, tiny_problem.network)


def test_a_file_that_was_cut_off(tmp_path, tiny_problem):
    saved(tiny_problem, tmp_path)
    file = tmp_path / "network.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        load_pruned(tmp_path, tiny_problem.network)


def test_an_unknown_network_in_the_plan(tmp_path, tiny_problem):
    saved(tiny_problem, tmp_path, name="smal")
    with pytest.raises(ValueError, match=r"unknown network 'smal'. Did you mean 'small'"):
        load_pruned(tmp_path)


def test_a_plan_is_readable(tmp_path, tiny_problem):
    masks, _ = saved(tiny_problem, tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [row["name"] for row in plan["groups"]] == ["features.0", "features.4", "features.7"]
    assert [len(row["kept"]) for row in plan["groups"]] == [int(mask.sum()) for mask in masks]


# -- checkpoints -----------------------------------------------------------------------------------


def test_weights_are_saved_in_half_precision(tmp_path):
    network, path = tiny.build("vgg"), tmp_path / "deep" / "vgg.safetensors"
    save_weights(network, path)
    floats = [t for t in load_file(path).values() if t.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float16}
    loaded = load_weights(tiny.build("vgg", seed=1), path)
    for name, tensor in network.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name].half(), tensor.half())


def test_own_checkpoints_come_before_shipped_ones(own_cache):
    assert cache_dir() == own_cache
    shipped = find_checkpoint("small", "digits")
    assert shipped.parent.name == "weights"
    own = checkpoint_path(own_cache, "small", "digits")
    save_file({"x": torch.zeros(1)}, own)
    try:
        assert find_checkpoint("small", "digits") == own
        with pytest.raises(
            CheckpointError, match=r"tensor 'features.0.weight' is missing in the f"
        ):
            make_problem()
    finally:
        own.unlink()
    assert find_checkpoint("small", "digits") == shipped


def test_a_missing_checkpoint_says_how_to_make_it(own_cache):
    match = r"no trained weights of network 'small_resnet' .*: prune-gym pretrain small_resnet --da"
    with pytest.raises(CheckpointError, match=match):
        make_problem("small_resnet")


def test_weights_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file .*gone.safetensors"):
        make_problem("small", weights=tmp_path / "gone.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"weights")
    with pytest.raises(
        CheckpointError, match=r"bad\.safetensors is not a readable safetensors file"
    ):
        make_problem("small", weights=tmp_path / "bad.safetensors")


def test_weights_of_another_network(tmp_path):
    save_weights(prune_gym.NETWORKS.get("small")(n_classes=7), tmp_path / "x.safetensors")
    message = r"tensor 'classifier.weight' is \(7, 128\) in the file but \(10, 128\) in VGG"
    with pytest.raises(CheckpointError, match=message):
        make_problem("small", weights=tmp_path / "x.safetensors")
    save_weights(tiny.build("residual"), tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor 'features.0.weight' is missing in the file"):
        load_weights(tiny.build("vgg"), tmp_path / "y.safetensors")


def test_files_are_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_weights(tiny.build("vgg"), path)
    before = path.read_bytes()

    def broken(file, content):
        file.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        save_weights(tiny.build("vgg", seed=1), path)
    assert path.read_bytes() == before
    assert read_tensors(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_saved_files_can_be_read_by_others(tmp_path):
    mask = os.umask(0o022)
    try:
        save_weights(tiny.build("vgg"), tmp_path / "x.safetensors")
    finally:
        os.umask(mask)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o644


def test_what_half_precision_cannot_hold_keeps_its_own(tmp_path):
    network, path = torch.nn.BatchNorm2d(2), tmp_path / "x.safetensors"
    network.running_var[0] = 1e5
    save_weights(network, path)
    found = load_file(path)
    assert found["running_var"].tolist() == [1e5, 1.0]
    assert found["weight"].dtype == torch.float16
    assert load_weights(torch.nn.BatchNorm2d(2), path).running_var.tolist() == [1e5, 1.0]


def test_the_shipped_file_is_what_saving_gives(tmp_path):
    shipped = find_checkpoint("small", "digits")
    network = load_weights(prune_gym.NETWORKS.get("small")(), shipped)
    save_weights(network, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == shipped.read_bytes()


def test_writers_of_the_same_file_do_not_meet(tmp_path):
    path = tmp_path / "x"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        assert {first.parent, second.parent} == {tmp_path}
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last one to end
    assert list(tmp_path.iterdir()) == [path]


def test_an_agent_is_saved_whole(tmp_path):
    class Model:
        def save(self, file):
            file.write(b"half")
            raise OSError("disk full")

    (tmp_path / "agent.zip").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        save_agent(Model(), RunFolder(tmp_path))
    assert (tmp_path / "agent.zip").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["agent.zip"]


def test_a_full_disk_leaves_a_pair_that_fits(tmp_path, default_problem, monkeypatch):
    saved(default_problem, tmp_path, name="small")
    before = [(path.name, path.read_bytes()) for path in sorted(tmp_path.iterdir())]

    def full(path, content):
        raise FileError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prune_gym.problem.saving.write_json", full)
    with pytest.raises(FileError, match="No space left"):
        saved(default_problem, tmp_path, seed=1, name="small")
    assert [(path.name, path.read_bytes()) for path in sorted(tmp_path.iterdir())] == before
