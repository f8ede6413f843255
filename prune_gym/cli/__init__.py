"""The command ``prune-gym``: a file per command."""
