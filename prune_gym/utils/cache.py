"""Where this machine keeps what was made or downloaded once: checkpoints and decoded datasets."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Folder of what is kept on this machine (``PRUNE_GYM_CACHE`` overrides it)."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("PRUNE_GYM_CACHE") or user_cache_dir("prune_gym"))
