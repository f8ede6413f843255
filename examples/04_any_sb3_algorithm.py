"""Any algorithm of Stable-Baselines3 made constrained; two costs with a multiplier each."""

import gymnasium as gym
from stable_baselines3 import A2C, SAC
from stable_baselines3.common.vec_env import DummyVecEnv

import prune_gym  # noqa: F401 - registers the environments
from agents import GradientMultiplier, PIDMultiplier, constrain

STEPS = 128  # a demonstration


def make(**arguments):
    return DummyVecEnv([lambda: gym.make("PruneVGG-v0", cost_mode="dense", **arguments)] * 2)


model = constrain(A2C, make(), multiplier=PIDMultiplier(), n_steps=16, gamma=1.0, device="cpu")
model.learn(STEPS)
print("A2C, multiplier", model.multiplier.value)

env = make(budgets={"params": 0.2, "macs": 0.3})
price = [GradientMultiplier(learning_rate=0.5), GradientMultiplier(learning_rate=0.5)]
model = constrain(SAC, env, multiplier=price, learning_starts=64, gamma=1.0, device="cpu")
model.learn(STEPS)
print("SAC, multipliers of params and macs", model.multiplier.value)
