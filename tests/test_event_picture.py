"""The picture in README is what the code draws today."""

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.testing.compare import compare_images

SOURCE = Path(__file__).resolve().parents[1] / "docs/source"
#: Root mean square of differences of 8-bit colours; fonts come with matplotlib
TOLERANCE = 2.0


@pytest.mark.slow
def test_event_picture(tmp_path):
    pytest.importorskip("nestpy", reason="needs nestpy, of the extra `simulation`")
    path = tmp_path / "made/event.png"
    done = subprocess.run(
        [sys.executable, SOURCE / "make_event_picture.py", path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # A picture of the difference would lie beside `path`
    assert compare_images(str(SOURCE / "_static/event.png"), str(path), TOLERANCE) is None
    # The run that it was made of is gone
    assert sorted(tmp_path.iterdir()) == [path.parent]
