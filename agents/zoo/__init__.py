"""The agents by name, with values to start from."""
