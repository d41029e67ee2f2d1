"""Data does not depend on where the chunks of live data end."""

import numpy as np
import pytest
from make_runs import (
    RAW_DTYPE,
    RUN_ID,
    START,
    THREADS,
    context,
    load,
    pulses,
    rundoc,
    write_run,
)

from amstrax import contexts, redax
from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import sort_by_time

#: Duration of chunks and of overlaps [ns]: all of the run, and parts of it
WHOLE = (50_000_000, 1_000_000)
PARTS = ((700_000, 150_000), (333_330, 140_000), (1_234_560, 130_000))
CHANNELS = {"xams": range(7), "xams_led": range(5), "xams_little": (0, 1)}
#: Gaps between pulses [ns]; the reader of each context looks for one of 1000, XAMSL's for 3000
GAPS = {"xams": (200, 1000, 1300), "xams_led": (1000, 1300), "xams_little": (400, 2000, 3000, 4000)}
#: Rows, but not indices of other rows in the same chunk, and counts of a chunk
EXCEPT = ("record_i",)


def random_pulses(name, seed, duration=6_000_000):
    """Return fragments of pulses with signals anywhere, also in their first and last samples."""
    rng = np.random.default_rng(seed)
    dt = 2 if name == "xams_little" else 10
    parts, start = [], 20_000
    while start < duration:
        n_fragments = 2 if name == "xams_led" else int(rng.integers(1, 4))
        length = 110 * n_fragments
        for channel in CHANNELS[name]:
            if name != "xams_led" and rng.random() < 0.4:
                continue
            width = int(rng.integers(2, 100))
            first = rng.choice([0, length - width, rng.integers(length - width)])
            wave = rng.normal(16_000, 2, length)
            wave[first : first + width] -= rng.uniform(0, 1500)
            part = np.zeros(n_fragments, dtype=RAW_DTYPE)
            part["record_i"] = np.arange(n_fragments)
            part["time"] = start + np.arange(n_fragments) * 110 * dt
            part["length"], part["dt"], part["channel"] = 110, dt, channel
            part["pulse_length"] = length
            part["data"] = wave.reshape(n_fragments, 110)
            parts.append(part)
        # Now and then long enough to tell events apart
        gap = rng.choice(GAPS[name]) if rng.random() < 0.95 else 60_000
        start += length * dt + int(gap)
    return sort_by_time(np.concatenate(parts))


def process(folder, name, records, lengths, workers=1, n_more=1, **config):
    """Return all data of a run written with such chunks, `n_more` of them after the last record."""
    length, overlap = lengths
    n_chunks = int(records["time"].max()) // (length + overlap) + 1 + n_more
    for i in range(n_chunks):
        redax.write_chunk(folder / RUN_ID, i, records, THREADS, length, overlap)
    redax.write_end(folder / RUN_ID, THREADS)
    document = rundoc(strax_chunk_length=length / 1e9, strax_chunk_overlap=overlap / 1e9)
    st = context(folder, name, document, **config)
    # From the last on, which stores what they are made of. Borders of chunks may cut single
    # electrons, as the plugin says
    return {
        d: st.get_array(RUN_ID, d, max_workers=workers, progress_bar=False)
        for d in reversed(st._plugin_class_registry)
        if d != "single_electrons"
    }


def assert_same_rows(expected, found):
    for data_type, array in expected.items():
        if data_type.endswith("pulse_counts"):
            # A row for each chunk, whose last pulse does not count as lone
            for field in ("pulse_count", "pulse_area"):
                total = array[field].sum(axis=0)
                np.testing.assert_array_equal(found[data_type][field].sum(axis=0), total)
            continue
        assert len(found[data_type]) == len(array), data_type
        for field in set(array.dtype.names) - set(EXCEPT):
            np.testing.assert_array_equal(
                found[data_type][field], array[field], err_msg=f"{data_type}/{field}"
            )


@pytest.mark.filterwarnings("error::amstrax.plugins.daqreader.ArtificialDeadtimeInserted")
@pytest.mark.parametrize(
    ("name", "seed", "reconstruction"),
    [
        *((name, seed, "lab") for name in CHANNELS for seed in (1, 2)),
        ("xams", 3, "improved"),
    ],
)
def test_chunk_length_does_not_matter(tmp_path, online_config, name, seed, reconstruction):
    records = random_pulses(name, seed)
    config = {} if reconstruction == "lab" else {"reconstruction": reconstruction}
    if name == "xams":
        config |= {
            **online_config,
            "trigger_min_area": 0,
            "s2_min_area": 5,
            "s1_max_width": 100,
            "s2_min_width": 100,
            "left_event_extension": (20_000, 50_000)[seed % 2],
            "right_event_extension": 5_000,
            # The longest that gaps of 1000 ns allow, with an extension of 10 ns
            "max_delay": 990,
            "absorption_peak_delta": 1e9,
        }
    whole = process(tmp_path / "whole", name, records, WHOLE, **config)
    last = {"xams": "event_info", "xams_led": "led_calibration", "xams_little": "radon_peak_basics"}
    assert len(whole[last[name]]) > 20
    if name == "xams":
        assert 20 < whole["peak_coincidences"]["is_coinc"].sum() < len(whole["peaks"]) - 20
    for i, lengths in enumerate(PARTS):
        found = process(tmp_path / str(i), name, records, lengths, workers=1 + i % 2, **config)
        assert_same_rows(whole, found)


@pytest.mark.filterwarnings("error::amstrax.plugins.daqreader.ArtificialDeadtimeInserted")
@pytest.mark.parametrize("lengths", PARTS)
@pytest.mark.parametrize("name", CHANNELS)
def test_run_that_ends_with_pulses_in_an_overlap(tmp_path, online_config, name, lengths):
    """No chunk follows, but records behind the cut are part of the run."""
    n_fragments, dt = (1, 2) if name == "xams_little" else (2, 10)
    end = 3 * sum(lengths)
    records = random_pulses(name, 3, end - 10_000)
    starts = end - np.array([6000, 200]) - n_fragments * 110 * dt
    last = pulses(starts, CHANNELS[name], n_fragments, dt, sign=-1)
    records = sort_by_time(np.concatenate([records[records["time"] < starts[0] - 9000], last]))
    config = online_config if name == "xams" else {}
    whole = process(tmp_path / "whole", name, records, WHOLE, **config)
    raw = {"xams_little": "raw_records_v1730"}.get(name, "raw_records")
    assert whole[raw]["time"][-1] == START * 1_000_000_000 + records["time"][-1]
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        found = process(folder, name, records, lengths, workers, n_more=0, **config)
        assert_same_rows(whole, found)


@pytest.mark.parametrize(("gap", "n_peaks"), [(1500, 1), (2700, 1), (2999, 2), (3000, 2)])
def test_two_pulses_of_xamsl_at_a_break(tmp_path, gap, n_peaks):
    """Whether they are one peak depends on how far apart they are, and on nothing else."""
    length, overlap = PARTS[0]
    first = length + 5000
    # In an overlap whose end is not quiet, so that a gap is looked for
    records = pulses([first, first + 220 + gap, length + overlap - 500], channels=0, dt=2)
    found = []
    for i, lengths in enumerate((WHOLE, PARTS[0])):
        data = process(tmp_path / str(i), "xams_little", records, lengths, peak_split_min_area=1e9)
        found.append(data["radon_peaks"][["time", "length", "area"]])
    np.testing.assert_array_equal(*found)
    assert len(found[0]) == n_peaks + 1


@pytest.mark.parametrize(
    ("name", "option", "data_type"),
    [
        ("xams_little", {"peak_gap_threshold": 3001}, "radon_peaks"),
        ("xams_little", {"peak_left_extension": 1001}, "radon_peaks"),
        ("xams_little", {"safe_break_in_pulses": 2999}, "radon_peaks"),
        ("xams", {"peak_gap_threshold": 1001}, "peaks"),
        ("xams", {"peak_gap_threshold": 1001}, "peaks_ext"),
        ("xams", {"peak_gap_threshold": 1001}, "event_info"),
        ("xams", {"peak_gap_threshold": 700, "peak_right_extension": 334}, "peaks_sipm"),
        ("xams", {"max_delay": 991}, "peak_coincidences"),
        ("xams", {"max_delay": 981, "peak_left_extension": 20}, "peak_coincidences"),
    ],
)
def test_breaks_that_are_too_short_are_refused(tmp_path, name, option, data_type):
    write_run(tmp_path, pulses([1_000_000], CHANNELS[name], dt=2 if name == "xams_little" else 10))
    st = context(tmp_path, name, **option)
    with pytest.raises(InvalidOption, match=r"safe_break_in_pulses=\d+, and make") as info:
        load(st, data_type)
    assert len(str(info.value)) <= 200
    st.set_config({"safe_break_in_pulses": 3003})
    load(st, data_type)


def test_overlap_without_room_for_a_break(tmp_path):
    write_run(tmp_path, pulses([1_000_000]))
    st = context(tmp_path, document=rundoc(strax_chunk_overlap=2.1e-6))
    with pytest.raises(InvalidOption, match="overlap of 2100 ns.*safe_break_in_pulses=1000"):
        load(st, "raw_records")


def test_defaults_are_wide_enough(tmp_path):
    for name in CHANNELS:
        st = getattr(contexts, name)(output_folder=tmp_path, init_rundb=False)
        for data_type, plugin in st._plugin_class_registry.items():
            if "peak_gap_threshold" in plugin.takes_config:
                st.get_single_plugin("0", data_type)
