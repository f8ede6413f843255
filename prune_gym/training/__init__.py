"""Training, recovery and evaluation of networks."""
