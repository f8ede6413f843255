"""PPO without a multiplier, for environments that constrain by themselves."""

from __future__ import annotations

from stable_baselines3 import PPO

from agents.algorithms.model_file import StoredAlgorithm


class SautePPO(StoredAlgorithm, PPO):
    """PPO of Stable-Baselines3 for `agents.SauteBudget`; its files hold data, and no pickles."""

    made_by = "SautePPO"
