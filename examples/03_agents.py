"""Train a Lagrangian agent on the default problem and judge its policy."""

import gymnasium as gym

import prune_gym
from agents import evaluate, make_agent

STEPS = 256  # 12,000 make a good policy; this is a demonstration

env = prune_gym.RecordBest(gym.make("PruneVGG-v0", cost_mode="dense"))
model = make_agent("ppo_lag", env, seed=0, device="cpu")
model.learn(STEPS)
print(evaluate(model, gym.make("PruneVGG-v0"), n_episodes=3))
best = env.archive.best
print("best feasible:", "none yet" if best is None else f"{best.accuracy:.3f} at {best.cost:.3f}")
