"""Networks judged by the machines of a Ray cluster; see `prune_gym.cluster.workers.RayWorkers`."""
