"""Figures of matplotlib that notebooks show without pyplot."""

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure that a notebook shows when it is the last value in a cell.

    IPython shows figures of matplotlib only after ``%matplotlib inline`` or an import of pyplot;
    its own formatter then takes precedence over this one.
    """

    def _repr_png_(self) -> bytes:
        """Return the figure as PNG, cropped as in IPython's inline backend."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi, bbox_inches="tight")
        return buffer.getvalue()
