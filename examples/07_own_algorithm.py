"""A constrained algorithm of your own, and how it does against the zoo on PruneVGG-v0.

CRPO (Xu et al. 2021, https://arxiv.org/abs/2011.05869) has no multiplier: where the last episodes
kept the limit it improves the reward, otherwise it lowers the cost. Two critics, rollouts, saving
and logging come with `TwoCritics`; what is left to write is the advantage that PPO follows.
"""

import gymnasium as gym
from stable_baselines3 import PPO

import prune_gym
from agents import FixedMultiplier, TwoCritics, make_agent
from agents.compare import compare_scores, table

STEPS, SEEDS = 256, range(1)  # a demonstration; 6016 steps and 5 seeds make a comparison


class CRPO(TwoCritics, PPO):
    """Constraint-rectified policy optimisation."""

    made_by = "CRPO"  # who may load its files

    def mix_advantages(self, reward_advantages, cost_advantages):
        """Follow reward or cost, whichever is due, (n_steps, n_envs)."""
        if self.violation is not None and (self.violation > 0.0).any():
            return -cost_advantages[..., self.violation.argmax()]
        return reward_advantages


def crpo(env, seed):
    return CRPO(
        "MlpPolicy", env, multiplier=FixedMultiplier(0.0), cost_margin=0.1, n_steps=128, gamma=1.0,
        learning_rate=1e-3, target_kl=0.05, seed=seed, device="cpu",
    )  # fmt: skip


def best_feasible(make, seed):
    env = prune_gym.RecordBest(gym.make("PruneVGG-v0", cost_mode="dense"))
    make(env, seed).learn(STEPS)
    return 0.0 if env.archive.best is None else env.archive.best.accuracy


contestants = {"crpo": crpo}
for name in ("ppo_lag", "cpo"):
    contestants[name] = lambda env, seed, name=name: make_agent(name, env, seed=seed, device="cpu")
scores = {name: [best_feasible(make, s) for s in SEEDS] for name, make in contestants.items()}
print(table(compare_scores(scores)))
