"""Code of the user's own on a cluster: it goes along by value; what is missing there is named."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
from torch import nn

import prune_gym
from prune_gym import search
from prune_gym.cluster.hiring import Hiring
from prune_gym.cluster.workers import RayWorkers
from prune_gym.errors import ClusterError

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]
ONE = RayWorkers(1, cpus_per_worker=0.5)
OWN = """
import torch
from torch import nn

import prune_gym


def squashed(images):
    return images.tanh()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3)
        self.second = nn.Conv2d(6, 5, 3)
        self.classifier = nn.Linear(5, 3)

    def forward(self, images):
        hidden = self.second(squashed(self.first(images)).relu()).relu()
        return self.classifier(hidden.mean(dim=(2, 3)))


def measure(network):
    return float(sum(p.numel() for p in network.parameters()))


def right(outputs, targets):
    return float((outputs.argmax(1) == targets).float().mean())


BUDGET = prune_gym.Budget("own", measure, deterministic=True)
METRIC = prune_gym.Metric(right, highest=1.0, lowest=0.0)


def make():
    torch.manual_seed(0)
    return Network().eval()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of this process only: its file is gone once it is imported."""
    return imported(tmp_path, monkeypatch, "cluster_own", OWN)


def imported(folder, monkeypatch, name, text):
    file = folder / f"{name}.py"
    file.write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, name, module)
    file.unlink()
    return module


@pytest.mark.slow
def test_network_budget_and_metric_go_along(cluster, own):
    def problem():
        return tiny.make_tiny(
            own.make(), batch_size=40, budgets={own.BUDGET: 0.8}, metric=own.METRIC
        )

    alone = search(problem(), "random", evaluations=6)
    result = search(problem(), "random", evaluations=6, workers=ONE)
    assert result.networks.tobytes() == alone.networks.tobytes()


@pytest.mark.slow
def test_a_module_that_a_machine_lacks_is_named(cluster, tmp_path, monkeypatch):
    owner = os.getpid()
    imported(tmp_path, monkeypatch, "cluster_gone", "value = 1.0")

    def measure(network: nn.Module) -> float:
        name = "cluster_gone" if os.getpid() != owner else "sys"
        __import__(name)
        return float(sum(p.numel() for p in network.parameters()))

    budget = prune_gym.Budget("own", measure, deterministic=True)
    problem = tiny.make_tiny(batch_size=40, budgets={budget: 0.9})
    with pytest.raises(ClusterError, match=r"machine .* lacks .*cluster_gone.*Install it there"):
        search(problem, "random", evaluations=2, workers=ONE)


@pytest.mark.slow
def test_a_script_sends_what_it_defines(cluster, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        OWN
        + """
if __name__ == "__main__":
    train = torch.randn(64, 1, 8, 8), torch.arange(64) % 3
    problem = prune_gym.make_problem(
        make(), train=train, validation=train, budgets={BUDGET: 0.8}, metric=METRIC, batch_size=64
    )
    alone = prune_gym.search(problem, "random", evaluations=4)
    problem = prune_gym.make_problem(
        make(), train=train, validation=train, budgets={BUDGET: 0.8}, metric=METRIC, batch_size=64
    )
    result = prune_gym.search(problem, "random", evaluations=4, workers=1)
    print("same", (result.networks == alone.networks).all())
"""
    )
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.stdout.strip().endswith("same True"), found.stderr[-2000:]


def versions(**others):
    own = {
        "python": sys.version.split()[0],
        "prune_gym": prune_gym.__version__,
        "torch": importlib.import_module("torch").__version__,
        "numpy": np.__version__,
        "node": "far",
    }
    return {**own, **others}


def checked(**others):
    hiring = Hiring.__new__(Hiring)
    hiring._told, hiring._lock = set(), importlib.import_module("threading").Lock()
    hiring._check(versions(**others))


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"prune_gym": "0.0.1"}, "machine far has prune_gym 0.0.1, and here it is"),
        ({"python": "3.1.2"}, "machine far has python 3.1.2, .*: install the same version on all"),
        ({"torch": "missing: ImportError: no"}, r"cannot import torch \(ImportError: no\): inst"),
    ],
)
def test_other_versions_are_refused(others, words):
    with pytest.raises(ClusterError, match=words):
        checked(**others)


def test_versions_that_hardly_differ_are_told_or_taken():
    checked(torch=f"{versions()['torch'].partition('+')[0]}+cu999")
    with pytest.warns(UserWarning, match=r"machine far has numpy 1\.0, .* in their last digits"):
        checked(numpy="1.0")


@pytest.mark.slow
def test_the_version_of_a_worker_is_compared(cluster, monkeypatch):
    monkeypatch.setattr(prune_gym, "__version__", "9.9.9")
    with pytest.raises(ClusterError, match=r"and here it is 9\.9\.9: install the same version"):
        search(tiny.make_tiny(batch_size=40), "random", evaluations=2, workers=ONE)
