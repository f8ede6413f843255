"""PruneBench with Thompson sampling on a quadratic surface of the accuracy.

Eight episodes show which shares of filters there are, and random networks follow. Then each
evaluation draws a surface from the posterior of a Bayesian linear regression, and judges the
network within the limit for which it is highest, out of changes of the best so far; where costs are
not known, a drawn surface stands for them, too. Several limits take turns. The policy, where one is
scored, plays the plans that promise most. Written from the page of the benchmark alone; its rows
are on the leaderboard as ``thompson``.
"""

import tempfile
from contextlib import suppress
from types import SimpleNamespace

import numpy as np

import agents
from agents.benchmark import EvaluationsSpent

NOISE = 0.03  # of values
RIDGE = 0.01  # variance of the noise by that of the coefficients
WIDEST = 2.0  # most cost by limit that is fitted
RANDOM = 20  # first networks
DRAWN, PARENTS = 300, 5  # candidates, and of how many networks they are changes
CHANGED = 0.3  # share of their groups that change
SHARES = np.array([1, 2, 3, 4, 6, 8, 12, 16]) / 16  # the default levels of tables


def surface(shares, values, generator=None):
    """A function drawn from the posterior of the values, or its mean without a generator."""

    def features(x):
        z, (i, j) = np.log2(x) / 2 + 1, np.triu_indices(x.shape[1])
        return np.hstack([np.ones((len(z), 1)), z, z[:, i] * z[:, j]])

    inputs, centre = features(shares), values.mean()
    root = np.linalg.inv(np.linalg.cholesky(inputs.T @ inputs + RIDGE * np.eye(inputs.shape[1])))
    drawn = NOISE * generator.normal(size=len(root)) if generator else 0.0
    weights = root.T @ (root @ inputs.T @ (values - centre) + drawn)
    return lambda others: centre + features(others) @ weights


def levels(env, n):
    """Shares of filters that each group can keep."""
    found = [set() for _ in range(n)]
    for share in SHARES:
        env.reset()
        for _ in range(n):
            *_, info = env.step(np.array([1 - 2 * share], np.float32))
        for one, kept in zip(found, info["kept"], strict=True):
            one.add(float(kept))
    return [sorted(one) for one in found]


def train(make_env, seed, budget):
    generator, env, n = np.random.default_rng(seed), make_env(), make_env.n_steps
    problem, powers = env.unwrapped.problem, 17.0 ** np.arange(n)
    known = make_env.costs_known and not make_env.by_policy  # there the networks are several
    limits = [list(part.get("limits", {}).values()) or problem.limits for part in make_env.judged]
    shares, accuracies, costs = [], [], []

    def promising(limit, drawn, at_random=False, draw=None):
        """Networks, the best first; with a generator ``draw`` by drawn surfaces, new ones only."""
        x, y, over = np.array(shares), np.array(accuracies), np.array(costs) / limit
        most = over.max(1)
        near = most <= max(WIDEST, np.sort(most)[: RANDOM + 1][-1])
        best = np.lexsort((np.where(most <= 1, -y, most), most > 1))[:PARENTS]
        new = np.stack([generator.choice(one, drawn) for one in found], 1)
        changed = generator.random(new.shape) < (1.0 if at_random else CHANGED)
        new = np.where(changed, new, x[generator.choice(best, drawn)])
        keys, firsts = np.unique(new @ powers, return_index=True)
        new = new[firsts[~np.isin(keys, x @ powers)] if draw else firsts]
        if known:
            counts = np.rint(new * problem.sizes).astype(int)
            cost = np.max(problem.counted_costs(counts) / limit, 1)
        else:
            drawn_costs = [surface(x[near], np.log(one[near]), draw)(new) for one in over.T]
            cost = np.exp(np.max(drawn_costs, 0))
        value = generator.random(len(new)) if at_random else surface(x[near], y[near], draw)(new)
        return new[np.lexsort((np.where(cost <= 1, -value, cost), cost > 1))]

    with suppress(EvaluationsSpent):
        found = levels(env, n)
        chosen = np.array([one[0] for one in found])
        while True:
            network = make_env.judge(1 - 2 * chosen[:, None])
            shares.append(chosen)
            accuracies.append(network.accuracy)
            costs.append(list(network.costs.values()))
            limit = limits[len(shares) % len(limits)]
            chosen = promising(limit, DRAWN, len(shares) < RANDOM, generator)[0]
    if not make_env.by_policy:
        return None
    plans = 1 - 2 * promising(limits[0], 10 * DRAWN)[:20]

    def predict(observation, state=None, episode_start=None, deterministic=True):
        if state is None or np.any(episode_start):  # the first plan, or another for each episode
            state = (0 if deterministic else generator.integers(len(plans)), 0)
        return plans[state], (state[0], state[1] + 1)

    return SimpleNamespace(predict=predict)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as out:
        (row,) = agents.benchmark(train, tasks="table-vgg-shapes-10", seeds=0, name="x", out=out)
    print(f"score {row['score']:.2f} of {row['evaluations']} evaluations")
