"""Which algorithm is better, over seeds."""
