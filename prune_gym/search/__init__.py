"""Searches: agents and controls, the archive of what they saw, the run folder."""
