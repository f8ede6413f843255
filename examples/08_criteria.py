"""Which filters go first: all criteria side by side, and one of your own.

A criterion gets `Evidence` (a private copy of the network, weights and gradients filter by filter,
a calibration batch) and gives one score per filter, higher = more important.
"""

from dataclasses import replace

import numpy as np

import prune_gym
from prune_gym.criteria import score_groups


def weight_and_gradient(evidence):
    """Geometric mean of magnitude and gradient."""
    pairs = zip(evidence.weights, evidence.gradients, strict=True)
    return [np.sqrt(np.abs(w).sum(axis=1) * np.abs(g).sum(axis=1)) for w, g in pairs]


problem = prune_gym.make_problem(criterion=weight_and_gradient)  # or criterion="taylor"
masks = problem.masks_of(problem.kept_counts([0.6] * len(problem.groups)))
print(f"{'mine':20s} {problem.evaluate(masks).accuracy:.3f} (60 % of every layer removed)")

for name in ("l1", "bn_scale", "ricci", "relief", "relchanet", "random"):  # see CRITERIA.names()
    criterion = prune_gym.CRITERIA.get(name)
    scores = score_groups(problem.network, problem.groups, criterion, problem.data.train, seed=0)
    rival = replace(problem, scores=scores)  # the same network and data, another order of filters
    masks = rival.masks_of(rival.kept_counts([0.6] * len(rival.groups)))
    print(f"{name:20s} {rival.evaluate(masks).accuracy:.3f}")
