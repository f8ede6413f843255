"""What does not fit is named with its cure, whatever kind of network, data and file it is."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

import prune_gym
from prune_gym.datasets.own import as_split
from prune_gym.networks.weight_files import read_weights
from prune_gym.problem.trust import load_call

INPUTS, LABELS = torch.randn(80, 8), torch.arange(80) % 3
IDS = torch.randint(20, (80, 5))


def network(outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, outputs))


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.rest = nn.Embedding(20, 8), network()

    def forward(self, input_ids, attention_mask=None):
        return self.rest(self.words(input_ids).mean(1))


def error_of(given, inputs, targets=LABELS, **options) -> str:
    split = (inputs, targets)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        prune_gym.make_problem(given, train=split, validation=split, **options)
    return str(caught.value)


def test_types_are_named_where_they_are_the_reason():
    assert error_of(Texts(), IDS + 50).endswith("index out of range in self")
    for other in (IDS.to(torch.uint8), IDS.float(), IDS.to(torch.int16)):
        assert "int64 or int32: a uint8 tensor is taken for pixels" in error_of(Texts(), other)
    assert "inputs hold torch.int64: make them alike" in error_of(network(), INPUTS.long())
    words = "'ids', are not the names of forward(): input_ids, attention_mask;"
    assert words in error_of(Texts(), {"ids": IDS})


@pytest.mark.parametrize("loss", [None, "mse"])
def test_numbers_to_be_told_go_with_their_metrics(loss):
    words = "go with metric='r2', 'mae' or 'rmse'."
    targets = torch.randn(80, 1)
    assert error_of(network(1), INPUTS, targets, loss=loss).endswith(words)
    items = [*zip(INPUTS, targets, strict=True)]
    with pytest.raises(ValueError, match=r"metric='r2', 'mae' or 'rmse'\."):
        prune_gym.make_problem(
            network(1),
            train=Kept(items),
            validation=Kept(items),
            loss=loss,
            collate=default_collate,
        )


class Kept(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


def test_lists_are_no_several_inputs():
    for second in (INPUTS, INPUTS[:, :4]):
        assert "several inputs are a tuple, (one, other)." in error_of(network(), [INPUTS, second])


def test_two_examples_of_different_sizes():
    items = [(torch.zeros(3, size, size), {"boxes": torch.zeros(size, 4)}) for size in (4, 5)]
    split = as_split(
        "train", Kept(items), classes=False, collate=lambda some: tuple(zip(*some, strict=True))
    )
    inputs, targets = split.batch(slice(2)), split.read(slice(2))[1]
    assert [len(image[0]) for image in inputs] == [4, 5]
    assert [len(target["boxes"]) for target in targets] == [4, 5]


def test_networks_that_are_none():
    assert "Identity makes one? Call it" in error_of(nn.Identity, INPUTS)
    assert "network makes one? Call it" in error_of(network, INPUTS)
    assert "build the module, and load them into it first" in error_of(
        network().state_dict(), INPUTS
    )
    assert "'0.weight' is on the meta device" in error_of(network().to("meta"), INPUTS)
    lazy = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3))
    assert "has no shape yet; run the network once" in error_of(lazy, INPUTS)


def test_targets_that_are_all_minus_zero():
    assert "every target is 0:" in error_of(network(1), INPUTS, -torch.zeros(80, 1), metric="mae")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_programs_are_no_files_of_weights(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(network(), INPUTS), path)
    with pytest.raises(prune_gym.CheckpointError, match=r"a TorchScript program.*torch\.jit\.load"):
        read_weights(path)
    path = tmp_path / "exported.pt2"
    torch.export.save(torch.export.export(network(), (INPUTS,)), path)
    with pytest.raises(prune_gym.CheckpointError, match=r"an exported program.*torch\.export\.loa"):
        read_weights(path)
    path = tmp_path / "text.pt"
    path.write_text("hello")
    with pytest.raises(prune_gym.CheckpointError, match=r"cut off, or torch\.save did not write"):
        read_weights(path)


@dataclass
class Outputs:
    out: Any
    hidden: Any = None
    n_classes: int = 3


Pair = namedtuple("Pair", ["one", "other"])


class Giving(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inside, self.kind = network(), kind

    def forward(self, inputs):
        outputs = self.inside(inputs)
        return UserDict(out=outputs) if self.kind is UserDict else self.kind(outputs, outputs)


@pytest.mark.parametrize(("kind", "n"), [(Outputs, 2), (Pair, 2), (UserDict, 1)])
@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_outputs_of_any_class_are_exported(tmp_path, kind, n, ending):
    path = tmp_path / f"network.{ending}"
    assert prune_gym.export_network(Giving(kind).eval(), INPUTS[:3], path) <= 1e-4
    if ending == "pt2":
        assert len(torch.export.load(path).module()(INPUTS[:2])) == n


def test_what_loads_a_network_trusts_code_only():
    assert load_call("small", "'runs/a'") == "prune_gym.load_pruned('runs/a')"
    assert load_call("mine:build") == "prune_gym.load_pruned(folder, trust=True)"
