"""Cuts on events: each on a hand-made table, the cut flow, and acceptance on truth."""

import numpy as np
import pytest
from make_runs import RUN_ID, context, pulses, write_run

from amstrax import contexts
from amstrax.analyses.quantities import cut_flow
from amstrax.exceptions import InvalidOption, NoSuchDataType

NAN = np.nan


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A context for a run without events."""
    folder = tmp_path_factory.mktemp("cuts")
    write_run(folder, pulses([1_000_000]))
    return context(folder)


def table(**columns):
    """Return events with these columns."""
    n = len(next(iter(columns.values())))
    result = np.zeros(n, dtype=[(name, np.float64) for name in columns])
    for name, values in columns.items():
        result[name] = values
    return result


@pytest.mark.parametrize(
    ("cut", "events", "kept"),
    [
        ("cut_s1_area", table(s1_area=[19.9, 20, NAN]), [0, 1, 0]),
        ("cut_s2_area", table(s2_area=[199, 200, NAN]), [0, 1, 0]),
        (
            "cut_fiducial_volume",
            table(r=[0, 25, 25.1, 0, 0, NAN, 0], z=[-25, -5, -25, -45.1, -4, -25, NAN]),
            [1, 1, 0, 0, 0, 0, 0],
        ),
        (
            "cut_single_scatter",
            table(
                s2_area=[5000, 5000, 5000, 200, NAN],
                alt_s2_area=[NAN, 250, 251, 50, NAN],
                drift_time=[1e4, 1e4, 1e4, 1e4, NAN],
            ),
            [1, 1, 0, 1, 0],
        ),
        (
            "cut_s2_width",
            table(s2_range_50p_area=[1003, 800, 1300, 1020, NAN], drift_time=[0, 0, 0, 4e4, 0]),
            [1, 0, 0, 1, 0],
        ),
        (
            "cut_saturation",
            table(s1_n_saturated_channels=[0, -1, 1, 0], s2_n_saturated_channels=[0, 0, 0, 2]),
            [1, 1, 0, 0],
        ),
    ],
)
def test_each_cut(empty, cut, events, kept):
    plugin = empty.get_single_plugin(RUN_ID, cut)
    assert plugin.cut_by(events).tolist() == [bool(keep) for keep in kept]
    assert len(plugin.cut_by(events[:0])) == 0


def test_thresholds_are_options_in_the_lineage(empty):
    other = empty.new_context(config={"cut_s1_min_area": 5.0})
    events = table(s1_area=[4, 6])
    assert other.get_single_plugin(RUN_ID, "cut_s1_area").cut_by(events).tolist() == [False, True]
    for data_type, is_same in (("cut_s1_area", False), ("event_cuts", False), ("event_info", True)):
        keys = [st.key_for(RUN_ID, data_type).lineage_hash for st in (empty, other)]
        assert (keys[0] == keys[1]) is is_same, data_type
    with pytest.raises(InvalidOption, match="cut_s2_width_range"):
        bad = empty.new_context(config={"cut_s2_width_range": (1,)})
        bad.get_single_plugin(RUN_ID, "cut_s2_width")


@pytest.mark.parametrize("release", ["2.1", "2.2"])
def test_options_have_units(release):
    registry = contexts.xams(init_rundb=False, release=release)._plugin_class_registry
    names = [name for name in registry if name.startswith("cut_")]
    assert len(names) == 6
    for name in names:
        own = {n: o for n, o in registry[name].takes_config.items() if n.startswith("cut_")}
        assert own
        for option in own.values():
            assert "[" in option.help or "channels" in option.help


def test_flow_of_a_hand_made_table():
    cuts = {"a": np.array([1, 1, 0, 1], bool), "b": np.array([0, 1, 1, 1], bool)}
    flow = cut_flow(cuts)
    assert flow["cut"].tolist() == ["all events", "a", "b"]
    assert flow["alone"].tolist() == [4, 3, 3] and flow["left"].tolist() == [4, 3, 2]
    assert flow["acceptance"].tolist() == [1, 0.75, 0.5]
    assert flow["acceptance_of_left"].tolist() == [1, 0.75, 2 / 3]
    good = cut_flow(cuts, np.array([1, 0, 0, 1], bool))
    assert good["alone"].tolist() == [2, 2, 1] and good["left"].tolist() == [2, 2, 1]
    assert cut_flow({}).shape == (1,)
    assert np.isnan(cut_flow({"a": np.zeros(0, bool)})["acceptance"]).all()


def test_flow_of_a_run_without_events_and_of_no_run(empty):
    for runs in (RUN_ID, [RUN_ID], []):
        flow = empty.cut_flow(runs)
        assert len(flow) == 7 and not flow["left"].any() and flow["acceptance"].isna().all()
    with pytest.raises(NoSuchDataType, match="truth_events"):
        empty.cut_flow(RUN_ID, truth=True)
    with pytest.raises(NoSuchDataType, match="cut_s3"):
        empty.cut_flow(RUN_ID, cuts=["cut_s3_area"])
    with pytest.raises(InvalidOption, match="given twice"):
        empty.cut_flow([RUN_ID, RUN_ID])


def test_flow_and_acceptance_on_truth(kr83m_run):
    flow = kr83m_run.cut_flow("100001")
    cuts = kr83m_run.get_array("100001", "event_cuts", progress_bar=False)
    assert flow["left"].iloc[-1] == cuts["cut_all"].sum() > 100
    assert (np.diff(flow["left"]) <= 0).all() and (flow["alone"] >= flow["left"]).all()
    part = kr83m_run.cut_flow("100001", cuts=["cut_s2_width", "cut_s1_area"])
    assert part.index.tolist() == ["all events", "cut_s2_width", "cut_s1_area"]
    # Kr-83m is mono-energetic and at one place: all cuts but that on the place accept it
    good = kr83m_run.cut_flow("100001", truth=True)["acceptance_alone"]
    assert (good.drop("cut_fiducial_volume") > 0.98).all()
    truth = kr83m_run.get_array("100001", "truth_events", progress_bar=False)
    radius = np.hypot(truth["x"], truth["y"])
    inside = (radius < 25) & (truth["z"] > -45) & (truth["z"] < -5)
    assert good["cut_fiducial_volume"] == pytest.approx(inside.mean(), abs=0.08)
