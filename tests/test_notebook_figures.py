"""A figure that is the last thing in a cell of a notebook is shown there, in any case."""

import base64
import io

import pytest
from matplotlib import image

_CELL = """
import sys
import numpy as np
from amstrax import analyses

events = np.zeros(1, dtype=[("drift_time", float)])
analyses.plot_drift_time(events)
"""
_IS_PYPLOT_THERE = "'matplotlib.pyplot' in sys.modules"


@pytest.fixture
def run(tmp_path):
    """Return a function that executes cells in Jupyter's kernel, and returns what each gives."""
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra `docs`")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of the extra `docs`")

    def run(*cells):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(x) for x in cells])
        nbclient.NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
        return [cell.outputs for cell in notebook.cells]

    return run


def size_of(output):
    """Return height and width of the picture in an output [pixels]."""
    picture = base64.b64decode(output["data"]["image/png"])
    return image.imread(io.BytesIO(picture)).shape[:2]


def test_without_and_with_the_backend_of_notebooks(run):
    alone, before, _, inline, after = run(
        _CELL, _IS_PYPLOT_THERE, "%matplotlib inline", _CELL, _IS_PYPLOT_THERE
    )
    # Shown once each, by itself and by IPython, which crops likewise
    assert before[0]["data"]["text/plain"] == "False"
    assert after[0]["data"]["text/plain"] == "True"
    for outputs in (alone, inline):
        [shown] = outputs
        height, width = size_of(shown)
        assert 400 < height < width < 800


def test_size_is_that_of_the_figure():
    from amstrax.analyses.style import new_figure

    figure = new_figure((4, 3))
    figure.subplots()
    large = new_figure((8, 6))
    large.subplots()
    sizes = [image.imread(io.BytesIO(f._repr_png_())).shape[1] / 100 for f in (figure, large)]
    assert sizes == pytest.approx([4, 8], abs=0.3)
