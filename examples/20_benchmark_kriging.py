"""PruneBench with a model of the accuracy: a Gaussian process over the numbers of kept filters.

Costs are known on these tasks, so that only networks within the limit are proposed. The first
episodes try every sixteenth of each group, which shows the levels that there are. Its rows are on
the leaderboard as ``krige``: ``python -m agents.benchmark 20_benchmark_kriging:train --name krige2
--tasks 'table-vgg-*'`` makes them again from this folder.
"""

import itertools
import tempfile

import numpy as np

import agents
from agents.benchmark import EvaluationsSpent

LENGTH = 2.0  # octaves of kept filters
NUGGET = 0.1  # variance of the roughness
BETA = 0.3  # scale of the exploration
BATCH, START, CANDIDATES, MOST = 16, 16, 1000, 100_000


def kernel(one, other):
    square = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    distance = np.sqrt(np.maximum(square, 0)) / LENGTH
    return (1 + np.sqrt(3) * distance) * np.exp(-np.sqrt(3) * distance)  # Matern 3/2


def candidates(problem, limit, judged, generator):
    """Networks of levels that were seen, within the limit."""
    levels = [np.unique(judged[:, group]) for group in range(judged.shape[1])]
    if np.prod([len(level) for level in levels]) <= MOST:
        pool = np.array(list(itertools.product(*levels)))
    else:
        pool = np.stack([generator.choice(level, MOST) for level in levels], 1)
    costs = np.asarray(problem.counted_costs(pool))
    return pool[(costs <= np.asarray(limit) + 1e-9).all(1)]


def train(make_env, seed, budget):
    generator = np.random.default_rng(seed)
    env, n = make_env(), make_env.n_steps
    env.reset(seed=seed)
    problem, limit = env.unwrapped.problem, env.unwrapped.cost_limit
    sizes = np.asarray(problem.sizes)
    inputs, targets, seen = [], [], set()

    def evaluate(fractions):
        env.reset()
        for fraction in fractions:
            _, _, _, _, info = env.step(np.array([1 - 2 * fraction], np.float32))
        kept = np.rint(np.asarray(info["kept"]) * sizes).astype(int)
        inputs.append(np.log2(kept))
        targets.append(info["accuracy"])
        seen.add(tuple(kept))
        return kept

    try:
        grid = np.stack([generator.permutation(START) + 1 for _ in range(n)], 1) / START
        judged = np.array([evaluate(fractions) for fractions in grid])
        pool = candidates(problem, limit, judged, generator)
        logs = np.log2(pool)
        while True:
            x, y = np.array(inputs), np.array(targets)
            mean, scale = y.mean(), y.std() + 1e-6
            near = [np.abs(logs - one).sum(1) for one in x[np.argsort(-y)[:3]]]
            some = [generator.choice(len(pool), min(CANDIDATES, len(pool)), replace=False)]
            some += [np.argsort(one + generator.random(len(one)) * 0.5)[:100] for one in near]
            some = np.unique(np.concatenate(some))
            some = np.array([row for row in some if tuple(pool[row]) not in seen])
            if not len(some):
                return None
            factor = np.linalg.cholesky(kernel(x, x) + NUGGET * np.eye(len(x)))
            half = np.linalg.solve(factor, kernel(x, logs[some]))
            guess = half.T @ np.linalg.solve(factor, (y - mean) / scale)
            doubt = np.sqrt(np.maximum(1 - (half**2).sum(0), 1e-9))
            for _ in range(BATCH):
                best = np.argmax(guess + BETA * abs(generator.normal()) * doubt)
                guess[best] = -np.inf
                evaluate(pool[some[best]] / sizes)
    except EvaluationsSpent:
        return None


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        agents.benchmark(
            train, name="krige", tasks="table-vgg-shapes-10", seeds=0, out=folder, report=print
        )
