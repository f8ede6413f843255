"""Ways to prune a network that are not ours, each as a function of a pruning problem.

Every one gives a `Found`: keep masks of our filter groups, so that compaction, recomputed BatchNorm
statistics and judgement are the same for all. torch-pruning is a library (``pip install
torch-pruning``); rank of feature maps and AMC are public formulas, written here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import ActionNoise
from torch import nn

import prune_gym
from prune_gym.criteria.base import Evidence
from prune_gym.pruning.masks import Masks
from prune_gym.training.recovery import bn

HALVINGS = 12  # of a bisection on a pruning ratio, to 1/4096
FEWER = 8  # where each takes ten steps, to 1/256
IMAGES = 256  # of the gradients that an importance asks for: as many as our criteria look at


@dataclass(frozen=True)
class Found:
    """What a peer came to.

    Attributes:
        masks: keep masks of the problem's filter groups; None = nothing within the limits.
        evaluations: networks that were judged on the validation split for it.
    """

    masks: Masks | None = None
    evaluations: int = 1


def library(name: str, package: str) -> Any:
    """A library that only this comparison needs; says how to install it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{package} is not installed ({error}). pip install {package} installs it; or leave "
            "its methods out: --methods."
        ) from error


def tightest(
    problem: Any, masks_of: Callable[[float], Masks], halvings: int = HALVINGS
) -> tuple[float, Masks | None]:
    """The ratio, and its network, nearest to the limits from below; None = no ratio meets them.

    A ratio of channels is no budget: at 0.5 a quarter of the MACs may be left, or most of them, as
    a ratio says nothing of where channels go. So every peer's ratio is bisected until the limit
    holds as tightly as its steps allow. Costs need not fall with a global ratio (torch-pruning
    leaves a group whole that would lose all channels): the largest cost met is taken.
    """
    low, high = 0.0, 1.0
    best: tuple[float, float, Masks | None] = (-math.inf, 1.0, None)
    for _ in range(halvings):
        ratio = (low + high) / 2
        masks = masks_of(ratio)
        costs = problem.costs(masks)
        if problem.feasible(costs):
            high = ratio
            cost = problem.constraint.cost(costs)
            best = max(best, (cost, ratio, masks), key=lambda found: found[0])
        else:
            low = ratio
    return best[1:]


# -- torch-pruning ---------------------------------------------------------------------------------


class TorchPruning:
    """torch-pruning's pruner on one problem.

    Args:
        problem: what is pruned.
        importance: one of `IMPORTANCES`.
        is_global: whether one threshold ranks the channels of all layers; else each layer loses
            the same share.
        steps: in how many steps the ratio is reached; scores are taken anew before each.
        seed: of random scores.
    """

    def __init__(
        self, problem: Any, importance: str, is_global: bool, steps: int = 1, seed: int = 0
    ) -> None:
        self.library = library("torch_pruning", "torch-pruning")
        self.problem, self.importance, self.seed = problem, importance, seed
        self.is_global, self.steps = is_global, steps

    def __call__(self) -> Found:
        """Its network within the limits."""
        if self.is_global:
            halvings = HALVINGS if self.steps == 1 else FEWER
            return Found(tightest(self.problem, lambda r: self.pruned(r)[0], halvings)[1])
        # how many channels each layer loses does not depend on scores, nor on the steps
        quick = TorchPruning(self.problem, "l1", is_global=False)
        ratio, masks = tightest(self.problem, lambda r: quick.pruned(r)[0])
        return Found(None if masks is None else self.pruned(ratio)[0])

    def pruned(self, ratio: float) -> tuple[Masks, nn.Module]:
        """Keep masks at a ratio of channels, and its own network, not recovered."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return self._pruned(ratio)

    def _pruned(self, ratio: float) -> tuple[Masks, nn.Module]:
        problem = self.problem
        network = copy.deepcopy(problem.network).eval()
        network.requires_grad_(True)  # it follows gradients to find what belongs together
        made = {name for group in problem.groups for name in group.producers}
        layers = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        }
        pruner = self.library.pruner.BasePruner(
            network,
            problem.example,
            importance=self._score(),
            global_pruning=self.is_global,
            pruning_ratio=ratio,
            iterative_steps=self.steps,
            ignored_layers=[module for name, module in layers.items() if name not in made],
            # its own defaults are dictionaries that all pruners of a process share
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
        )
        kept = {name: np.arange(m.weight.shape[0]) for name, m in layers.items()}
        names = {module: name for name, module in layers.items()}
        outputs = (
            self.library.prune_conv_out_channels,
            self.library.prune_linear_out_channels,
        )
        for step in range(self.steps):
            self._look(network, is_dense=step == 0)
            for group in pruner.step(interactive=True):
                for dependency, channels in group:
                    name = names.get(dependency.target.module)
                    if name is not None and dependency.handler in outputs:
                        kept[name] = np.delete(kept[name], list(channels))
                group.prune()
        network.zero_grad(set_to_none=True)
        return masks_of_channels(problem, kept), network

    def _score(self) -> Any:
        found = self.library.importance
        return {
            "l1": partial(found.GroupMagnitudeImportance, p=1),
            # of the producing layer alone (Li et al., 1608.08710)
            "l1first": partial(
                found.GroupMagnitudeImportance, p=1, group_reduction="first", normalizer=None
            ),
            "l2": partial(found.GroupMagnitudeImportance, p=2),
            "bnscale": found.BNScaleImportance,
            "taylor": found.GroupTaylorImportance,
            "lamp": found.LAMPImportance,
            "hessian": found.GroupHessianImportance,
            "fpgm": found.FPGMImportance,
            "random": found.RandomImportance,
        }[self.importance]()

    def _look(self, network: nn.Module, is_dense: bool) -> None:
        """Give the parameters the gradients that scores ask for."""
        if self.importance not in ("taylor", "hessian"):
            return
        if is_dense:
            slopes = self._dense_slopes
        else:  # what is left after a step is only near what it was with statistics of its own
            bn(network, self.problem.data.train, generator=torch.Generator(), steps=0)
            slopes = self._slopes(network)
        for parameter, slope in zip(network.parameters(), slopes, strict=True):
            parameter.grad = slope.clone()

    @cached_property
    def _dense_slopes(self) -> list[torch.Tensor]:
        network = copy.deepcopy(self.problem.network).eval()
        network.requires_grad_(True)
        return self._slopes(network)

    def _slopes(self, network: nn.Module) -> list[torch.Tensor]:
        """Gradients of the mean loss; for the Hessian the mean squares of single images'.

        (Hessian's own ``accumulate_grad`` of torch-pruning 1.6 forgets all images but the last, as
        it looks names up among parameters; it takes what it finds in ``grad``, though.)
        """
        parameters = list(network.parameters())
        is_single = self.importance == "hessian"
        inputs, labels = self.problem.data.train.calibration(IMAGES)
        loss = nn.functional.cross_entropy
        with torch.enable_grad():
            if not is_single:
                return list(torch.autograd.grad(loss(network(inputs), labels), parameters))
            total = [torch.zeros_like(parameter) for parameter in parameters]
            for one in range(len(labels)):
                rows = slice(one, one + 1)
                slopes = torch.autograd.grad(loss(network(inputs[rows]), labels[rows]), parameters)
                for square, slope in zip(total, slopes, strict=True):
                    square += slope**2 / len(labels)
        return total


def masks_of_channels(problem: Any, kept: dict[str, NDArray[np.int64]]) -> Masks:
    """Keep masks of filter groups by the output channels that stay of each layer.

    Raises:
        ValueError: a layer keeps parts of a filter, or another one's than a layer that shares it.
    """
    masks = []
    for group in problem.groups:
        found = {}
        for cut in group.slices:
            layer, _, tensor = cut.tensor.rpartition(".")
            if layer in group.producers and tensor == "weight" and cut.axis == 0:
                rows = np.isin(cut.positions, kept[layer])
                if (rows.any(axis=1) != rows.all(axis=1)).any():
                    raise ValueError(f"{layer} keeps a part of a filter of group {group.name}.")
                found[layer] = rows.any(axis=1)
        first = next(iter(found.values()))
        if any((mask != first).any() for mask in found.values()):
            raise ValueError(f"the layers of group {group.name} keep different filters.")
        masks.append(first)
    return tuple(masks)


# -- rank of feature maps --------------------------------------------------------------------------


def feature_map_rank(evidence: Evidence) -> list[NDArray[np.float64]]:
    """Mean rank of a filter's maps behind norm and ReLU (HRank, Lin et al., 2002.10179)."""
    evidence.need_filters()
    modules = dict(evidence.network.named_modules())
    places: list[list[tuple[str, NDArray[np.int64]]]] = []
    for group in evidence.groups:
        cuts = [(cut.tensor.rpartition(".")[0], cut) for cut in group.slices]
        norms = [
            (name, cut.positions)
            for name, cut in cuts
            if isinstance(modules[name], nn.BatchNorm2d) and cut.tensor.endswith(".weight")
        ]
        places.append(norms)
    ranks: dict[str, list[torch.Tensor]] = {name: [] for own in places for name, _ in own}

    def look(name: str, module: nn.Module, given: Any, made: torch.Tensor) -> None:
        ranks[name].append(torch.linalg.matrix_rank(made.relu()).sum(dim=0))

    hooks = [modules[name].register_forward_hook(partial(look, name)) for name in ranks]
    with torch.no_grad():
        for images, _ in evidence.chunks():
            evidence.outputs(images)
    for hook in hooks:
        hook.remove()
    means = {
        name: torch.stack(found).sum(dim=0).double().cpu().numpy() / evidence.n_calibration
        for name, found in ranks.items()
    }
    return [
        np.mean([means[name][positions].mean(axis=1) for name, positions in own], axis=0)
        for own in places
    ]


def rank_of_maps(problem: Any, scored: Any) -> Found:
    """The same ratio of every group, filters by `feature_map_rank`.

    Args:
        problem: what is pruned.
        scored: the same problem with that criterion.
    """
    ones = np.ones(len(problem.groups))
    _, masks = tightest(problem, lambda r: scored.masks_of(scored.kept_counts(r * ones)))
    return Found(masks)


# -- AMC -------------------------------------------------------------------------------------------


class FadingNoise(ActionNoise):
    """Normal noise of half of the range of actions, which fades by 5 % with each episode.

    Args:
        warm_up: episodes after which it begins to fade.
        seed: of its random numbers.
    """

    def __init__(self, warm_up: int, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._warm_up, self._episodes = warm_up, 0

    def __call__(self) -> NDArray[np.float64]:
        """One action's noise, (1,); actions are in [-1, 1]."""
        return self._generator.normal(0.0, 0.95 ** max(0, self._episodes - self._warm_up), 1)

    def reset(self) -> None:
        """An episode has ended."""
        self._episodes += 1


def amc(problem: Any, evaluations: int, seed: int) -> Found:
    """AMC (He et al., 1802.03494) on the paper's decision: DDPG, layer by layer, and a wall.

    The wall clips each prune ratio so that the layers to come can still meet the limit. As there:
    two layers of 300, tau 0.01, batches of 64, no discount, an eighth of the episodes at random,
    then noise that fades. Here: our observation and reward, one learning rate (that of its
    critic), and no reconstruction of weights.
    """
    env = prune_gym.RecordBest(
        prune_gym.ProjectionWrapper(gym.make("PruneVGG-v0", problem=problem))
    )
    groups, warm_up = len(problem.groups), max(1, evaluations // 8)
    model = DDPG(
        "MlpPolicy",
        env,
        seed=seed,
        gamma=1.0,
        tau=0.01,
        batch_size=64,
        learning_starts=warm_up * groups,
        learning_rate=1e-3,
        action_noise=FadingNoise(warm_up, seed),
        policy_kwargs={"net_arch": [300, 300]},
        device="cpu",
    )
    model.learn(evaluations * groups)
    masks = env.archive.best_masks if env.archive.best is not None else None
    return Found(masks, evaluations=len(env.archive.trials))
