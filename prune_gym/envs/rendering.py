"""Pictures of what each layer keeps; matplotlib is imported only when one is drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# name of the layer, number of filters, keep mask (n_filters,) bool; None = undecided
Row: TypeAlias = tuple[str, int, "NDArray[np.bool_] | None"]

KEPT, DROPPED, UNDECIDED = "#1f6f8b", "#e8d5c4", "#f4f4f4"


def caption(
    names: Sequence[str],
    costs: NDArray[np.float64],
    limits: NDArray[np.float64],
    reward: float | None,
    metric: str = "accuracy",
) -> str:
    """What is used of each limit, and the reward where it is known.

    Args:
        names: of the budgets.
        costs: (n_budgets,) float64.
        limits: (n_budgets,) float64.
        reward: the accuracy, or what another metric comes to.
        metric: its name.

    >>> caption(["params"], np.array([0.25]), np.array([0.3]), None)
    'params 0.250 of 0.3'
    """
    rows = zip(names, costs, limits, strict=True)
    used = "  ".join(f"{name} {cost:.3f} of {limit:g}" for name, cost, limit in rows)
    if reward is None:
        return used
    name = "accuracy" if metric == "accuracy" else f"reward ({metric})"
    return f"{used}  {name} {reward:.3f}"


def as_text(rows: Sequence[Row], title: str, width: int = 40) -> str:
    """One line per layer: a bar of what is kept, and the numbers.

    >>> print(as_text([("conv", 4, np.array([True, False, False, False]))], "title", width=4))
    title
    conv #...    1 of    4
    """
    longest = max(len(name) for name, _, _ in rows)
    lines = [title]
    for name, n_filters, mask in rows:
        if mask is None:
            lines.append(f"{name:<{longest}} {'?' * width} undecided, {n_filters}")
            continue
        kept = int(np.count_nonzero(mask))
        full = max(1, round(width * kept / n_filters))
        bar = "#" * full + "." * (width - full)
        lines.append(f"{name:<{longest}} {bar} {kept:>4} of {n_filters:>4}")
    return "\n".join(lines)


def draw(rows: Sequence[Row], title: str, figure: Any = None) -> Any:
    """A matplotlib figure: one bar per layer, as wide as the layer, kept part filled.

    Args:
        rows: one per layer.
        title: above the picture.
        figure: a figure to draw into; None makes one.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.9 + 0.34 * len(rows)), dpi=100) if figure is None else figure
    figure.clear()
    axes = figure.add_subplot()
    sizes = np.array([n for _, n, _ in rows], dtype=float)
    kept = np.array([0 if mask is None else np.count_nonzero(mask) for _, _, mask in rows])
    places = np.arange(len(rows))
    colors = [UNDECIDED if mask is None else DROPPED for _, _, mask in rows]
    axes.barh(places, sizes, color=colors, edgecolor="#999999", linewidth=0.5)
    axes.barh(places, kept, color=KEPT)
    for place, (_, n_filters, mask) in zip(places, rows, strict=True):
        label = f"{n_filters} undecided" if mask is None else f"{kept[place]} of {n_filters}"
        axes.text(n_filters + 0.01 * sizes.max(), place, label, va="center", fontsize=8)
    axes.set_yticks(places, [name for name, _, _ in rows], fontsize=8)
    axes.set_xlim(0, 1.22 * sizes.max())
    axes.invert_yaxis()
    axes.set_xlabel("filters", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=9, loc="left")
    figure.tight_layout()
    return figure


def as_image(rows: Sequence[Row], title: str) -> NDArray[np.uint8]:
    """The picture as an array, (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(draw(rows, title))
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba(), dtype=np.uint8)  # (height, width, 4)
    return np.ascontiguousarray(pixels[..., :3])


class Window:
    """A window of the picture; on a machine without a screen it draws without showing."""

    def __init__(self) -> None:
        from matplotlib import pyplot
        from matplotlib.backend_bases import NonGuiException

        self._pyplot = pyplot
        self.figure: Any = pyplot.figure("prune_gym", figsize=(7.0, 4.0))
        with contextlib.suppress(NonGuiException):
            manager: Any = self.figure.canvas.manager
            manager.show()

    def show(self, rows: Sequence[Row], title: str) -> None:
        """Draw anew."""
        draw(rows, title, self.figure)
        self.figure.canvas.draw_idle()
        self.figure.canvas.flush_events()

    def close(self) -> None:
        """Close the window."""
        self._pyplot.close(self.figure)
