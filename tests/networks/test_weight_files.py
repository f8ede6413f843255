"""Weights as people have them."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

from prune_gym.errors import CheckpointError
from prune_gym.networks.weight_files import load_weights, read_weights


def held():
    return tiny.build("vgg").state_dict()


WAYS = {
    "plain": lambda state: state,
    "of DataParallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "compiled in DataParallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "of a training": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "of another training": lambda state: {"model": {"model_state_dict": state}},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin"])
def test_state_dicts(tmp_path, way, ending):
    state, path = held(), tmp_path / f"weights{ending}"
    torch.save(WAYS[way](state), path)
    network = load_weights(tiny.build("vgg"), path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_prefix_of_the_network_itself_stays(tmp_path):
    network = nn.Sequential()
    network.module = tiny.build("vgg")
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_file(kept, tmp_path / "weights.safetensors")
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    load_weights(network, tmp_path / "weights.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())


def test_parts_that_were_compiled(tmp_path):
    state = {k.replace("features.", "features._orig_mod."): v for k, v in held().items()}
    torch.save(state, tmp_path / "weights.pt")
    assert set(read_weights(tmp_path / "weights.pt")) == set(held())


@pytest.mark.parametrize("in_parts", [False, True])
def test_folders_of_hugging_face(tmp_path, in_parts):
    state = {name: tensor.clone() for name, tensor in held().items()}
    if in_parts:
        names = list(state)
        parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
        for part, inside in parts.items():
            save_file({name: state[name] for name in inside}, tmp_path / part)
        index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(state, tmp_path / "model.safetensors")
    load_weights(tiny.build("vgg"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty is a folder without model\.safetensors"):
        read_weights(tmp_path / "empty")


def test_parts_elsewhere_are_not_read(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for text in ('{"weight_map": {"a": "../a.safetensors"}}', "{", '{"weight_map": 3}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=r"index\.json is damaged: "):
            read_weights(tmp_path)


class Bomb:
    """What a pickle would execute."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize("what", [Bomb(), tiny.build("vgg")])
def test_nothing_is_executed(tmp_path, what):
    path = tmp_path / "weights.pt"
    torch.save(what, path)
    with pytest.raises(CheckpointError, match=r"holds Python objects.*save the weights alone"):
        read_weights(path)


def test_files_without_weights(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match=r"holds no state dict; write one: torch\.save"):
        read_weights(path)
    path.write_bytes(b"no pickle at all")
    with pytest.raises(CheckpointError, match=r"weights\.pt (holds|is no readable)"):
        read_weights(path)
    with pytest.raises(CheckpointError, match="there is no file"):
        read_weights(tmp_path / "missing.pt")
