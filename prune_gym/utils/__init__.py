"""The ground floor: registries, files, devices and threads; it knows nothing of pruning."""
