"""Constrained algorithms on top of Stable-Baselines3."""
