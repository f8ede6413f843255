"""A page for every family of environments: its docstring, and a picture of one episode.

The picture is drawn by the code that the page shows, so that the code is known to run.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import gymnasium as gym
import pages
import torch
from PIL import Image
from sphinx.application import Sphinx

FRAME_MS, LAST_MS = 700, 3500


@dataclass(frozen=True)
class Episode:
    """One drawn episode.

    Attributes:
        frames: of the unpruned network and after every step, (height, width, 3) uint8.
        info: of the last step.
    """

    frames: list[Any]
    info: dict[str, Any]


def play(code: str) -> Episode:
    """Run the code of a page, which makes ``env``, and play one episode of sampled actions."""
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(code, "<code of a page>", "exec"), names)
    env = names["env"]
    env.reset(seed=0)
    env.action_space.seed(0)
    frames, ended, info = [env.render()], False, {}
    while not ended:
        *_, ended, _, info = env.step(env.action_space.sample())
        frames.append(env.render())
    env.close()
    return Episode(frames, info)


def save_gif(episode: Episode, path: Path) -> None:
    """Write the frames as an animation that starts again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(frame).quantize(64) for frame in episode.frames]
    durations = [FRAME_MS] * (len(images) - 1) + [LAST_MS]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)


def page(family: families.Family, episode: Episode) -> str:
    """The text of a family's page."""
    env_class = getattr(importlib.import_module(family.module), family.env_class)
    accuracy, within = episode.info["accuracy"], episode.info["feasible"]
    verdict = "within the limit" if within else "over the limit"
    ids = "".join(f"- `{env_id}`\n" for env_id in family.ids)
    caption = (
        f"One episode of sampled actions of the environment above ({len(episode.frames) - 1} "
        f"steps); the network that it ends with has a validation accuracy of {accuracy:.3f} and is "
        f"{verdict}. {family.caption}"
    )
    return f"""# {family.title}

{family.words.strip()}

{ids}
```python
{family.code.strip()}
```

![One episode, filter group by filter group]({family.name}.gif){{.picture}}

*{caption.strip()}*

What follows is the docstring of `{family.module}.{family.env_class}`.

{inspect.cleandoc(env_class.__doc__ or "")}
"""


def check_complete() -> None:
    """Raise unless every registered id of the package has its family."""
    registered = {
        env_id
        for env_id, spec in gym.registry.items()
        if str(spec.entry_point).startswith("prune_gym.")
    }
    described = {env_id for family in families.FAMILIES for env_id in family.ids}
    if registered != described:
        raise ValueError(f"ids without a family, or the reverse: {registered ^ described}")


def write_pages(app: Sphinx) -> None:
    """Draw and write every page; pictures that are there already are drawn anew."""
    check_complete()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries; Sphinx's own are counted by its logger
        for family in families.FAMILIES:
            episode = play(family.code)
            folder = pages.GENERATED / "environments"
            save_gif(episode, folder / f"{family.name}.gif")
            pages.write(f"environments/{family.name}.md", page(family, episode))
    pages.drop_others("environments", {f"{family.name}.md" for family in families.FAMILIES})


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx reads any."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
