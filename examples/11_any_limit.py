"""One policy for every limit, and every limit kept for certain.

The limit is drawn anew for each episode and stands in the observation; the projection moves actions
that would put it out of reach. The archive answers for limits that nobody asked for in training.
"""

import gymnasium as gym
from stable_baselines3 import PPO

import prune_gym

env = gym.make("PruneVGGAnyLimit-v0", limit_range=(0.05, 0.4), cost_mode="dense")
env = prune_gym.RecordBest(prune_gym.ProjectionWrapper(env))
model = PPO("MlpPolicy", env, n_steps=128, gamma=1.0, seed=0, device="cpu")
model.learn(128)

for limit in (0.1, 0.3):
    observation, info = env.reset(seed=0, options={"limit": limit})
    terminated = False
    while not terminated:
        action, _ = model.predict(observation, deterministic=True)
        observation, accuracy, terminated, _, info = env.step(action)
    share = info["params"] / env.unwrapped.problem.unpruned_values[0]
    print(f"limit {limit:.0%}: {share:.1%} of the parameters, accuracy {accuracy:.3f}")

print(f"{sum(not row.feasible for row in env.archive.trials)} episodes broke their limit")
found = env.archive.best_within({"params": 0.2})
print(f"best of {len(env.archive.trials)} within 20 %: accuracy {found.accuracy:.3f}")
