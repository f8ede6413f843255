"""NVIDIA's ``fastnas`` on a problem of `peers.py`.

    python -m venv modelopt
    modelopt/bin/pip install -e . nvidia-modelopt torchprofile==0.0.4
    python benchmarks/peers.py --methods fastnas --modelopt-python modelopt/bin/python

Model-Optimizer wants an environment of its own, so that this script is run there by `peers.py`, and
writes what it keeps. (It counts MACs by torchprofile, whose later versions it does not fit.)
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peer_pruners import Found, library
from peer_tasks import TASKS, packed, unpacked
from torch import nn

import prune_gym
from agents.files import write_json
from prune_gym.pruning.groups import FilterGroup
from prune_gym.pruning.masks import Masks

CONSTRAINTS = {"params": "params", "macs": "flops"}  # our names of limits, and its own
SMALLER, TRIES = 0.99, 10  # of its limit, where its count and ours differ


# -- of peers.py -----------------------------------------------------------------------------------


def fastnas(problem: Any, python: Path, words: list[str]) -> Found:
    """What ``fastnas`` keeps, found by a Python that has nvidia-modelopt.

    Args:
        problem: whose masks they are.
        python: its path.
        words: the problem's name, and where its data and weights are.

    Raises:
        SystemExit: it ended with an error, which it has printed.
    """
    root = str(Path(prune_gym.__file__).parents[1])
    places = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [str(python), __file__, *words, "--out", str(out)]
        ended = subprocess.run(
            command, check=False, stdout=sys.stderr, env={**os.environ, "PYTHONPATH": places}
        )
        if ended.returncode or not out.is_file():
            raise SystemExit(
                f"fastnas ended with status {ended.returncode}: {' '.join(command[:2])}. It needs "
                "pip install nvidia-modelopt torchprofile==0.0.4 in the environment of that Python."
            )
        found = json.loads(out.read_text())
    masks = None if found["masks"] is None else unpacked(found["masks"], problem)
    return Found(masks, evaluations=found["evaluations"])


# -- in the other environment ----------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problem", choices=TASKS)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    problem = TASKS[asked.problem].problem(asked.data, asked.weights)
    masks, judged = FastNAS(problem)()
    write_json(asked.out, {"masks": masks and packed(masks), "evaluations": judged})


class FastNAS:
    """A scan of all widths of each layer, and one threshold of accuracy lost, bisected.

    Widths are its own shares of 5 %, but in multiples of 1 instead of 32, which is wider than these
    networks. Networks are judged on the validation images, and BatchNorm statistics are recomputed
    before, as everywhere; its own way asks for 50 batches of images for each network.
    """

    def __init__(self, problem: Any) -> None:
        self.problem, self.judged = problem, 0

    def __call__(self) -> tuple[Masks | None, int]:
        """Keep masks within the limits (None = none found), and how many networks were judged.

        Raises:
            SystemExit: nothing but one limit of ``params`` or ``macs`` has a name there.
        """
        problem = self.problem
        if len(problem.names) > 1 or problem.names[0] not in CONSTRAINTS:
            raise SystemExit(f"fastnas limits params or MACs, not {', '.join(problem.names)}.")
        share = float(problem.limits[0])
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(TRIES):  # the scan is kept in the folder, and is not run again
                network = self._pruned(share, Path(folder) / "scan.pth")
                masks = tuple(kept_filters(problem.network, network, g) for g in problem.groups)
                if problem.feasible(problem.costs(masks)):
                    return masks, self.judged
                share *= SMALLER
        return None, self.judged

    def _pruned(self, share: float, scan: Path) -> nn.Module:
        """Its network with at most that share of the budget."""
        problem = self.problem
        prune = library("modelopt.torch.prune", "nvidia-modelopt")
        settings = prune.fastnas.FastNASConfig().model_dump()
        for rules in settings.values():
            for name in rules["*"] if isinstance(rules, dict) else ():
                if name.endswith("_divisor"):
                    rules["*"][name] = 1
        network = copy.deepcopy(problem.network)
        network.requires_grad_(True)
        found, _ = prune.prune(
            model=network,
            mode=[("fastnas", settings)],
            constraints={CONSTRAINTS[problem.names[0]]: f"{100 * share:.4f}%"},
            dummy_input=problem.example,
            config={
                "data_loader": [problem.data.train.calibration(1)],
                "score_func": self._score,
                "verbose": False,
                "checkpoint": str(scan),
            },
        )
        return found.eval()

    def _score(self, network: nn.Module) -> float:
        self.judged += 1
        return float(self.problem.judge(self.problem.recover(network)))


def kept_filters(dense: nn.Module, pruned: nn.Module, group: FilterGroup) -> NDArray[np.bool_]:
    """Which filters of a group are left, (n_filters,).

    It sorts filters before it cuts, and does not tell which are left: scale and shift of a
    BatchNorm behind a filter do, which it leaves as they are.

    Raises:
        SystemExit: several filters have the same, or none is followed by a BatchNorm.
    """
    for cut in group.slices:
        name, _, kind = cut.tensor.rpartition(".")
        norm = dense.get_submodule(name)
        if kind == "weight" and isinstance(norm, nn.BatchNorm2d) and cut.positions.shape[1] == 1:
            ours, theirs = (_affine(one.get_submodule(name)) for one in (dense, pruned))
            same = (ours[cut.positions[:, 0], None] == theirs[None]).all(axis=2)
            if (same.sum(axis=0) == 1).all() and (same.sum(axis=1) <= 1).all():
                found: NDArray[np.bool_] = same.any(axis=1)
                return found
    raise SystemExit(f"which filters fastnas keeps of group {group.name} cannot be told.")


def _affine(norm: nn.Module) -> NDArray[np.float32]:
    """Scale and shift of each channel, (n_channels, 2)."""
    return torch.stack([norm.weight, norm.bias], dim=1).detach().cpu().numpy()


if __name__ == "__main__":
    main()
