"""Searches: agents and baselines, what they find, and the run folder."""
