"""Trainings: their folders, logs, checkpoints and evaluations."""
