"""Releases of the lab's package: which one a context follows, and LED runs in both."""

import numpy as np
import pytest
from make_runs import RUN_ID, context, load, pulses, rundoc, write_run

from amstrax import contexts
from amstrax.exceptions import InvalidOption, LiveDataIncomplete
from amstrax.plugins import daqreader, event_processing, led_calibration, release_2_2
from amstrax.processing.compiled import sort_by_time

#: Hashes of raw_records and records_led of the lab, by release
HASHES = {"2.1": ("c7zrd7k56r", "ljkgctchzw"), "2.2": ("y5oixg6qla", "tfxymovrur")}
SIPM_UP = [{"reg": f"1{c}80", "val": "100000" if c == 6 else "110000"} for c in range(7)]
#: An LED pulse of `pulses`: 220 samples, its maximum at samples 49 and 50
STARTS, HEIGHT, N_SAMPLES = [1_000_000, 2_000_000, 3_000_000], 800, 220


# ---- Choosing a release ----


def hashes(**kwargs):
    st = contexts.xams_led(init_rundb=False, storage=[], **kwargs)
    return tuple(st.key_for("0", d).lineage_hash for d in ("raw_records", "records_led"))


@pytest.mark.parametrize("release", HASHES)
def test_argument_and_setting_choose_the_release(release, monkeypatch):
    assert hashes() == HASHES["2.1"]
    assert hashes(release=release) == HASHES[release]
    monkeypatch.setenv("AMSTRAX_RELEASE", release)
    assert hashes() == HASHES[release]
    assert contexts.xams(storage=[]).key_for("0", "raw_records").lineage_hash == HASHES[release][0]
    for other, expected in HASHES.items():
        assert hashes(release=other) == expected


@pytest.mark.parametrize("make", [contexts.xams, contexts.xams_led])
@pytest.mark.parametrize("wrong", ["2.3", "", "2", "v2.2", 2.2, ["2.2"]])
def test_release_that_does_not_exist(make, wrong, monkeypatch):
    words = "is no release: write 2.1 or 2.2"
    with pytest.raises(InvalidOption) as info:
        make(storage=[], release=wrong)
    assert str(info.value) == f"release={wrong!r} {words}"
    if not wrong or not isinstance(wrong, str):
        return
    monkeypatch.setenv("AMSTRAX_RELEASE", wrong)
    with pytest.raises(InvalidOption) as info:
        make(storage=[])
    assert str(info.value) == f"AMSTRAX_RELEASE={wrong!r} {words}"
    assert make(storage=[], release="2.2")  # The setting is not used


def test_xamsl_has_no_releases(monkeypatch):
    plain = contexts.xams_little(storage=[]).key_for("0", "radon_peaks")
    monkeypatch.setenv("AMSTRAX_RELEASE", "2.2")
    assert contexts.xams_little(storage=[]).key_for("0", "radon_peaks").lineage == plain.lineage


# ---- LED runs ----


def led_run(folder, lost=()):
    """Write LED pulses of TPC channels, and of the SiPM going up, without the records `lost`."""
    tpc = pulses(STARTS, range(5), n_fragments=2, height=HEIGHT)
    sipm = pulses(STARTS, 6, n_fragments=2, height=HEIGHT, baseline=400, sign=1)
    records = sort_by_time(np.concatenate([tpc, sipm]))
    keys = zip(*(records[f].tolist() for f in ("time", "channel", "record_i")), strict=True)
    write_run(folder, records[[key not in lost for key in keys]])


def led(folder, release, registers=SIPM_UP, **config):
    """Return records_led by channel."""
    st = context(folder, "xams_led", rundoc(registers=registers), release, **config)
    records = load(st, "records_led")
    assert len(load(st, "led_calibration")) == len(records)
    return {c: records[records["channel"] == c] for c in np.unique(records["channel"]).tolist()}


@pytest.mark.parametrize("release", HASHES)
def test_led_pulses_go_up_in_all_channels(release, tmp_path):
    led_run(tmp_path)
    made = led(tmp_path, release)
    assert list(made) == [*range(5), *([6] if release == "2.2" else [])]
    for rows in made.values():
        assert len(rows) == len(STARTS)
        assert (rows["length"] == N_SAMPLES).all() and (rows["pulse_length"] == N_SAMPLES).all()
        assert (rows["data"].argmax(axis=1) == 49).all()
        np.testing.assert_allclose(rows["data"].max(axis=1), HEIGHT, rtol=0.15)


def test_sipm_without_a_register_is_taken_to_go_down(tmp_path):
    led_run(tmp_path)
    made = led(tmp_path, "2.2", registers=[])
    assert (made[6]["data"].min(axis=1) < -0.85 * HEIGHT).all()
    assert (made[0]["data"].max(axis=1) > 0.85 * HEIGHT).all()


def second(pulse, channel):
    """Return time, channel and number of the second fragment of a pulse."""
    return STARTS[pulse] + 1100, channel, 1


@pytest.mark.parametrize(
    ("lost", "pulse", "channel"),
    [(second(1, 3), 1, 3), ((STARTS[2], 0, 0), 2, 0)],
    ids=["second fragment", "first fragment"],
)
def test_missing_fragment_is_an_error_in_release_2_1(tmp_path, lost, pulse, channel):
    led_run(tmp_path, {lost})
    words = f"run {RUN_ID}: .* channel {channel} at .* lacks a fragment.*allow_incomplete_pulses"
    with pytest.raises(LiveDataIncomplete, match=words):
        led(tmp_path, "2.1")
    made = led(tmp_path, "2.1", allow_incomplete_pulses=True)
    rows = made.pop(channel)
    assert all(len(others) == 3 and others["data"].any(axis=1).all() for others in made.values())
    if lost[2] == 0:
        assert len(rows) == 2
        return
    assert rows["length"].tolist() == [N_SAMPLES, 110, N_SAMPLES]
    assert (rows["pulse_length"] == N_SAMPLES).all()
    assert not rows["data"][pulse, 110:].any() and rows["data"][pulse, :110].max() > 600


def test_missing_fragment_leaves_no_gap_in_release_2_2(tmp_path):
    led_run(tmp_path, {(STARTS[0], 0, 0), second(1, 6)})
    made = led(tmp_path, "2.2")
    assert made[0]["length"].tolist() == [110, N_SAMPLES, N_SAMPLES]
    # The second fragment begins the row, whose time is its own
    assert made[0]["time"][0] - made[1]["time"][0] == 1100
    assert not made[0]["data"][0].any()
    assert made[6]["length"].tolist() == [N_SAMPLES, 110, N_SAMPLES]
    assert not made[6]["data"][1, 110:].any() and made[6]["data"][1].argmax() == 49


def test_incomplete_pulses_are_in_the_lineage_only_where_they_are_allowed():
    assert hashes(config={"allow_incomplete_pulses": False}) == HASHES["2.1"]
    raw, records = hashes(config={"allow_incomplete_pulses": True})
    assert raw == HASHES["2.1"][0] and records != HASHES["2.1"][1]


@pytest.mark.parametrize("release", ["2.1", "2.2"])
def test_all_plugins_of_a_module_are_registered(release):
    """Bases in a module take the place of no plugin."""
    modules = [daqreader, event_processing, led_calibration]
    if release == "2.2":
        modules = [release_2_2]
    for make in (contexts.xams, contexts.xams_led):
        st = make(init_rundb=False, release=release)
        before = dict(st._plugin_class_registry)
        for module in modules:
            st.register_all(module)
        after = st._plugin_class_registry
        assert {d: after[d].__name__ for d in before} == {d: c.__name__ for d, c in before.items()}
        assert all(after[d].__version__ == c.__version__ for d, c in before.items())
