"""Many environments at once: in threads of one process, or in processes that share the arrays."""

from functools import partial

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv

import prune_gym


def main() -> None:
    # Gymnasium: one process; networks are judged side by side, one per core
    envs = gym.make_vec("PruneVGG-v0", num_envs=4)
    envs.reset(seed=0)
    for _ in range(8):
        _, rewards, _, _, infos = envs.step(envs.action_space.sample())
    print("accuracies", rewards.round(2), "costs", infos["cost"].round(2))
    envs.close()

    # Stable-Baselines3: processes that map one file of weights and images, with one thread each
    shared = prune_gym.share(prune_gym.make_problem())
    make = partial(gym.make, "PruneVGG-v0", problem=shared)
    venv = SubprocVecEnv([make, make], start_method="spawn")
    print("observations", venv.reset().shape)
    venv.close()


if __name__ == "__main__":
    main()
