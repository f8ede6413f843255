"""One episode with random actions: what an environment says at every step."""

import gymnasium as gym

import prune_gym  # noqa: F401 - registers the environments

env = gym.make("PruneVGG-v0", render_mode="ansi")
env.action_space.seed(0)
observation, info = env.reset(seed=0)
terminated = False
total_cost = info["cost"]
while not terminated:
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    total_cost += info["cost"]
print(env.render())
print(f"accuracy {reward:.3f}, cost {total_cost:.3f}, limit {env.unwrapped.cost_limit}")
print("parameters:", sum(p.numel() for p in env.unwrapped.compact_network().parameters()))
