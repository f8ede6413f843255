"""``python -m prune_gym.tables``: make tables, list them, look at them."""

from __future__ import annotations

from prune_gym.cli.tables import main

if __name__ == "__main__":
    main()
