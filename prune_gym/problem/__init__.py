"""The pruning problem: its description, what judges it, and what decisions come to."""
