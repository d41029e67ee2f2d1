"""Figures of runs with more peaks than can be points, and of trends."""

from datetime import UTC, datetime

import numpy as np
import pytest
from bokeh.models import Span
from dashboard_server import SHORT

from amstrax.dashboard import figures, weeks_page
from amstrax.dashboard.site import Site

pytestmark = pytest.mark.slow


@pytest.fixture
def context(lab, monkeypatch):
    """A context that loads the data of the lab."""
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(lab.store))
    site = Site("xams", "local", output_folder=lab.out)
    yield site.context("xams")
    site.close()


def test_peaks_of_selected_events_are_marked_where_not_all_are_points(context, monkeypatch):
    monkeypatch.setattr(figures, "MOST_POINTS", 50)
    drawn = figures.of_run(context, SHORT, figures.Scales())
    assert len(drawn.sources["peaks"].data["area"]) == 50
    assert list(drawn.sources["marked"].data) == ["area", "width", "aft"]
    events = figures.load(context, SHORT, "event_info")
    chosen = [3, 5]
    start, end = drawn.linked.start[chosen], drawn.linked.end[chosen]
    np.testing.assert_array_equal(start, events["time"][chosen])
    found = figures.marks(context, SHORT, start, end)
    peaks = figures.load(context, SHORT, "peak_basics")
    is_in = [
        any(events["time"][i] <= peak["time"] < events["endtime"][i] for i in chosen)
        for peak in peaks
    ]
    assert found.total == sum(is_in) == events["n_peaks"][chosen].sum() > 0
    np.testing.assert_array_equal(found.columns["area"], peaks["area"][is_in])
    np.testing.assert_array_equal(found.columns["width"], peaks["range_50p_area"][is_in])
    # Of those that are points, the same
    points = drawn.sources["peaks"].data["index"][drawn.linked.links.inside(chosen)]
    assert set(points) <= set(np.flatnonzero(is_in))
    monkeypatch.setattr(figures, "MOST_MARKED", 3)
    found = figures.marks(context, SHORT, start, end)
    assert (len(found.columns["area"]), found.total) == (3, sum(is_in))


def test_trends_have_the_limits_of_all_rows():
    now = datetime.now(UTC)
    common = {"start": now, "time": now, "values": {"s1_rate": 4.0, "s2_rate": 2.0}, "flags": []}
    common |= {"error": None, "reasons": {}, "context": "xams", "lineage": "abc"}
    limits = ({"s1_rate": [None, 5.0]}, {"s2_rate": [1.0, 3.0]}, None)
    rows = [common | {"name": f"{n:06d}", "limits": limits[n]} for n in range(3)]
    drawn = weeks_page.trend_figures(rows)
    ends = {x.title.text: sorted(span.location for span in x.select(Span)) for x in drawn}
    assert ends == {"s1_rate": [5.0], "s2_rate": [1.0, 3.0]}
