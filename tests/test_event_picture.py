"""The picture in README is what the code draws today."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import strax
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images

SOURCE = Path(__file__).resolve().parents[1] / "docs/source"
#: Root mean square of differences of 8-bit colours; fonts come with matplotlib
TOLERANCE = 2.0


@pytest.mark.slow
def test_event_picture(tmp_path, served_scripts):
    pytest.importorskip("nestpy", reason="needs nestpy, of the extra `simulation`")
    path = tmp_path / "made/event.png"
    done = subprocess.run(
        [served_scripts / "python", SOURCE / "make_event_picture.py", path],
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


def test_late_peaks_are_left_out(monkeypatch):
    """A peak 3 ms later would make the axis one of milliseconds."""
    monkeypatch.syspath_prepend(SOURCE)
    import make_event_picture

    peaks = np.zeros(3, dtype=strax.peak_dtype(n_channels=2))
    peaks["time"], peaks["length"], peaks["dt"] = [5_000, 25_000, 3_000_000], 10, 10
    peaks["type"], peaks["data"][:, :10] = [1, 2, 2], 3
    values = {"z": -20.0, "drift_time": 20_000.0}
    for prefix, peak in zip(("s1", "s2"), peaks, strict=False):
        values |= {f"{prefix}_{name}": peak[name] for name in ("time", "data", "dt", "area")}
        values[f"{prefix}_center_time"] = values[f"{prefix}_endtime"] = peak["time"] + 100
    axes = Figure().subplots()
    make_event_picture.draw_whole(values, peaks, axes)
    assert axes.get_xlabel() == "Time [µs]"
    assert axes.get_xlim() == (0, pytest.approx(23.1))
