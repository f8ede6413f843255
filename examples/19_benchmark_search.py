"""PruneBench with a search that needs no environment: simulated annealing on prune ratios.

``make_env.judge(plan)`` plays one episode of these actions and says what the network came to. From
this folder, ``python -m agents.benchmark 19_benchmark_search:train --name annealing`` runs the
whole of it.
"""

import tempfile
from contextlib import suppress

import numpy as np

import agents
from agents.benchmark import EvaluationsSpent, Plan


def train(make_env, seed, budget):
    generator = np.random.default_rng(seed)
    shape = (make_env.n_steps, *make_env().action_space.shape)
    plan = generator.uniform(-1.0, 1.0, shape)
    energy = best = np.inf
    found = plan
    with suppress(EvaluationsSpent):  # raised where all evaluations are spent
        while True:
            heat = make_env.evaluations_left / budget
            step = 0.5 * heat * generator.standard_normal(shape)
            candidate = np.clip(plan + step, -1.0, 1.0)
            judged = make_env.judge(candidate)
            new = -judged.accuracy if judged.feasible else judged.cost / judged.cost_limit
            if new < energy or generator.random() < np.exp((energy - new) / (0.1 * heat + 1e-9)):
                plan, energy = candidate, new
            if new < best:
                found, best = candidate, new
    return Plan(found)  # a policy that plays it again; None would do, where none is scored


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        agents.benchmark(
            train, name="annealing", tasks="table-vgg-shapes-10", seeds=0, out=folder, report=print
        )
