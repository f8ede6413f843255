"""``python -m prune_gym``: the command ``prune-gym``."""

from __future__ import annotations

from prune_gym.cli.main import main

if __name__ == "__main__":
    main()
