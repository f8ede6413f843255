"""Sweeps: many trainings at once in a Ray cluster; ``prune-gym sweep FILE``."""
