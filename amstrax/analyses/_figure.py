"""The figures that analyses make: matplotlib's, and a notebook shows them."""

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure that a notebook shows when it is the last thing in a cell.

    IPython can show matplotlib's own only after ``%matplotlib inline``, or once pyplot was imported
    there. What IPython knows then comes before this, with the format and resolution that are set.
    """

    def _repr_png_(self) -> bytes:
        """Return the figure as PNG, cropped as in IPython's inline backend."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi, bbox_inches="tight")
        return buffer.getvalue()
