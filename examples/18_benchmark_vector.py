"""PruneBench with a loop over a vector of Gymnasium: REINFORCE of one Gaussian per step, in NumPy.

From this folder, ``python -m agents.benchmark 18_benchmark_vector:train --name reinforce`` runs the
whole of it. The policy is a function observation -> action; it knows the step by the share of
groups that are decided, the first number that it observes.
"""

import tempfile

import numpy as np

import agents
from agents.benchmark import EvaluationsSpent

N_ENVS, RATE, PENALTY = 32, 0.3, 5.0


def train(make_env, seed, budget):
    generator = np.random.default_rng(seed)
    envs = make_env(num_envs=N_ENVS, autoreset_mode="SameStep")
    limits, n_steps = envs.cost_limits, make_env.n_steps  # of the sums of costs
    shape = (n_steps, *envs.single_action_space.shape)
    mean, spread = np.zeros(shape), 0.5
    observations, _ = envs.reset()
    shares = []  # of decided groups, as the first episode observes them at every step
    try:
        while True:
            noise = generator.standard_normal((n_steps, N_ENVS, *shape[1:]))
            gains, costs = np.zeros(N_ENVS), np.zeros(N_ENVS)
            for step in range(n_steps):
                if len(shares) < n_steps:
                    shares.append(float(observations[0, 0]))
                actions = np.clip(mean[step] + spread * noise[step], -1.0, 1.0)
                observations, rewards, ended, _, infos = envs.step(actions.astype(np.float32))
                last = infos["final_info"] if ended.any() else infos
                gains, costs = gains + rewards, costs + last["cost"]
            gains -= PENALTY * np.maximum(0.0, costs / limits - 1.0)
            advantages = (gains - gains.mean()) / (gains.std() + 1e-8)
            mean += RATE * spread * np.tensordot(noise, advantages, axes=(1, 0)) / N_ENVS
            mean, spread = np.clip(mean, -1.0, 1.0), max(0.1, 0.98 * spread)
    except EvaluationsSpent:  # all evaluations are spent
        pass

    def policy(observation):
        return mean[int(np.argmin(np.abs(np.array(shares) - observation[0])))].astype(np.float32)

    return policy


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        agents.benchmark(
            train, name="reinforce", tasks="table-vgg-shapes-10", seeds=0, out=folder, report=print
        )
