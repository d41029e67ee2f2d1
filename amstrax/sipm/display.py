"""A picture of what SiPMs saw."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Patch, Rectangle

from amstrax.analyses.style import BLACK, BLUE, COLOR_MAP, GREEN, VERMILLION, figure_of, new_axes
from amstrax.sipm.geometry import DISC, SiPMArray

_MARKERS = (("+", VERMILLION), ("x", BLUE), ("o", GREEN), ("s", BLACK))


def event_display(
    sipms: SiPMArray,
    counts: np.ndarray,
    positions: Mapping[str, np.ndarray] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Draw the counts of SiPMs of one event, a cylinder unrolled.

    Parameters
    ----------
    sipms
        Geometry, n SiPMs.
    counts
        Shape (n,).
    positions
        Name -> x, y, z [mm], as ``{"fit": fit.position}``: places to mark.
    axes
        Draw into these; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    axes = new_axes() if axes is None else axes
    width, height = sipms.size
    patches: list[Patch] = []
    for x, y in sipms.flat:
        if sipms.shape == DISC:
            patches.append(Ellipse((x, y), width, height))
        else:
            patches.append(Rectangle((x - width / 2, y - height / 2), width, height))
    areas = PatchCollection(patches, cmap=COLOR_MAP, edgecolor="0.5")
    areas.set_array(np.asarray(counts))
    axes.add_collection(areas)
    figure_of(axes).colorbar(areas, ax=axes, label="Counts")
    for (name, position), (marker, color) in zip((positions or {}).items(), _MARKERS, strict=False):
        x, y = _flat(sipms, np.asarray(position))
        axes.plot(x, y, marker, color=color, ms=10, mew=2, mfc="none", ls="none", label=name)
    if positions:
        axes.legend()
    margin = max(sipms.size)
    low, high = sipms.flat.min(axis=0) - margin, sipms.flat.max(axis=0) + margin
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.set(xlabel=sipms.flat_labels[0], ylabel=sipms.flat_labels[1])
    axes.set_title(f"{np.sum(counts):.6g} counts")
    return figure_of(axes)


def _flat(sipms: SiPMArray, position: np.ndarray) -> tuple[float, float]:
    """Return where a position is shown: straight above it, or at its angle on the cylinder."""
    if np.ptp(sipms.normal[:, 2]) == 0 and sipms.normal[0, 2] != 0:
        return position[0], position[1]
    radius = float(np.hypot(*sipms.centre[0, :2]))
    return radius * float(np.arctan2(position[1], position[0])), position[2]
