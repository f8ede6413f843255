"""A Lagrangian around any on-policy algorithm of Stable-Baselines3: wrapper and callback."""

import gymnasium as gym
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv

import prune_gym  # noqa: F401 - registers the environments
from agents import GradientMultiplier, LagrangianCallback, LagrangianVecEnv

STEPS = 128  # a demonstration

venv = DummyVecEnv([lambda: gym.make("PruneVGG-v0", cost_mode="dense") for _ in range(2)])
env = LagrangianVecEnv(venv, GradientMultiplier(initial=2.0, learning_rate=1.0))
model = A2C("MlpPolicy", env, n_steps=16, gamma=1.0, seed=0, device="cpu")
model.learn(STEPS, callback=LagrangianCallback())
print("multiplier", model.multiplier.value)
