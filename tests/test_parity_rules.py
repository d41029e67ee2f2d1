"""Numbers follow the rules of the specification where the reference runs have no example.

The reference runs have one S1 and one S2 in nearly each event, or no event. Here a dense run has
all kinds of events, with default and other options, and is compared with `plain_rules`.
"""

from types import SimpleNamespace

import numpy as np
import plain_rules
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st
from make_runs import RUN_ID, START, THREADS, load, pulses, rundoc

from amstrax import contexts, redax
from amstrax.processing import events as kernels
from amstrax.processing.compiled import sort_by_time

#: Arguments of the functions of `amstrax.contexts`, one set a release
RELEASES = [pytest.param({}, id="2.1")]
CHUNKS = (600_000_000, 10_000_000)  #: Duration of chunks and overlaps [ns]
N_CHUNKS = 4
#: Between a signal and the next [ns]: in one event or another, with any options below
GAPS = (6_000, 20_000, 45_000, 90_000, 300_000, 560_000, 1_500_000)

ANY_ORDER = {
    "allow_posts2_s1s": True,
    "force_main_before_alt": True,
    "force_alt_s2_in_max_drift_time": False,
    "default_reconstruction_algorithm": "cgr",
    "left_event_extension": 30_000,
    "right_event_extension": 500_000,
}
COINCIDENT = {
    "tight_coincidence_window": 50,
    "event_s1_min_coincidence": 4,
    "max_drift_length": 0.05,  # 31 us with the default velocity
}
OPTIONS = {"default": {}, "reference": None, "any order": ANY_ORDER, "coincident": COINCIDENT}


def dense_signals(name):
    """Return fragments of S1s, S2s and others, and of external ones at the same time.

    They are at random, but for S2s without a gap for over a second, whose events of a second
    overlap, and one at the very start of the run.
    """
    rng = np.random.default_rng(17)
    dt = 2 if name == "xams_little" else 10
    gaps = rng.choice(GAPS, size=1500)
    chain = np.full(2400, 450_000)
    starts = 100_000 + np.cumsum(np.concatenate([gaps[:700], chain, gaps[700:]]))
    in_chain = np.zeros(len(starts), dtype=bool)
    in_chain[700:3100] = True
    template = rng.integers(0, 60, size=len(starts))
    template[in_chain] = rng.integers(32, 41, size=in_chain.sum())  # S2s with all options
    channels = range(2) if name == "xams_little" else range(5)
    parts = [pulses(100_000, channels, 4, dt, height=700, width=380)]
    for i in np.unique(template):
        times = starts[template == i]
        width, n_fragments, low, high = (20, 1, 60, 900) if i < 30 else (380, 4, 90, 1500)
        if i % 15 == 0:
            width = 60  # too wide or too narrow, depending on options
        size = rng.uniform(low, high)
        # S1s are mostly seen below, S2s above; some channels see nothing
        share = np.array([rng.uniform(0.78, 0.9) if i < 30 else 0.2, 0, 0, 0, 0])
        share[1:] = (1 - share[0]) * rng.dirichlet([5, 5, 5, 5])
        if i % 10 == 1:
            share[rng.integers(1, 5)] = 0
        for channel in channels:
            if share[channel]:
                height = max(size * share[channel] * 5, 18)
                parts.append(pulses(times, channel, n_fragments, dt, height, width))
        if name == "xams":
            # About 511 with gains of 1, and with those of the reference
            for channel in (5, 6):
                chosen = times[rng.random(len(times)) < 0.3] + rng.choice([0, 30, 90, 150])
                height = rng.choice([44, 48, 3150, 3250, 2000])
                parts.append(pulses(chosen, channel, height=height))
    return sort_by_time(np.concatenate(parts))


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory):
    """Return a function that returns the folder of the dense run of a context."""
    folders = {}

    def write(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            records = dense_signals(name)
            for i in range(N_CHUNKS):
                redax.write_chunk(folders[name] / RUN_ID, i, records, THREADS, *CHUNKS)
            redax.write_end(folders[name] / RUN_ID, THREADS)
        return folders[name]

    return write


def dense_context(folder, name, release, **options):
    """Return a context that makes the dense run in `folder`, or loads what is made already."""
    st = getattr(contexts, name)(
        output_folder=folder / "out",
        init_rundb=False,
        config={"live_data_dir": str(folder), **options},
        **release,
    )
    # As reading chunk by chunk from live data does, events must not depend on where chunks end
    st.set_context_config({"stored_chunk_size_mb": 2})
    length, overlap = (duration / 1e9 for duration in CHUNKS)
    document = rundoc(strax_chunk_length=length, strax_chunk_overlap=overlap)
    return contexts.context_for_daq_reader(st, RUN_ID, run_doc=document, check_exists=False)


def options_of(st, *data_types):
    """Return the values of all options of plugins, as attributes."""
    values = {}
    for data_type in data_types:
        plugin = st.get_single_plugin(RUN_ID, data_type)
        values |= {
            name: getattr(plugin, name, plugin.config.get(name)) for name in plugin.takes_config
        }
    return SimpleNamespace(**values)


def selection_of(options):
    return kernels.Selection(
        options.allow_posts2_s1s,
        options.event_s1_min_coincidence,
        options.force_alt_s2_in_max_drift_time,
        options.force_main_before_alt,
        int(options.max_drift_length / options.electron_drift_velocity),
    )


def assert_equal(made, expected, data_type):
    assert len(made) == len(expected), data_type
    for name in made.dtype.names:
        np.testing.assert_array_equal(made[name], expected[name], err_msg=f"{data_type}/{name}")


def merged(*arrays):
    return strax.merge_arrs(arrays, dtype=strax.merged_dtype([a.dtype for a in arrays]))


def event_rows(peaks, events, options, dtypes):
    """Return event_basics, event_positions and corrected_areas by the rules."""
    basics = plain_rules.event_basics(events, peaks, selection_of(options), dtypes["event_basics"])
    positions = plain_rules.event_positions(basics, options, dtypes["event_positions"])
    areas = plain_rules.corrected_areas(basics, positions, options, dtypes["corrected_areas"])
    return {"event_basics": basics, "event_positions": positions, "corrected_areas": areas}


# As in the lab's: with the default lifetime of electrons, cs2 is infinite beyond 2.6 ms
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", OPTIONS)
def test_dense_run(dense_run, online_config, release, name):
    options = online_config if OPTIONS[name] is None else OPTIONS[name]
    st = dense_context(dense_run("xams"), "xams", release, **options)
    types = (
        "peaks", "peak_basics", "peak_positions", "peak_coincidences", "peak_basics_ext",
        "events", "event_basics", "event_positions", "corrected_areas", "event_info",
        "event_waveform", "event_area_per_channel", "event_n_channel", "event_coincidences",
    )  # fmt: skip
    made = {data_type: load(st, data_type) for data_type in types}
    options = options_of(st, *types)
    peaks, basics, positions = (made[d] for d in types[:3])
    dtypes = {data_type: array.dtype for data_type, array in made.items()}
    chunks = st.get_metadata(RUN_ID, "events")["chunks"]
    assert len(chunks) >= N_CHUNKS
    first_top = options.channel_map["top"][0]
    expected = {
        "peak_basics": plain_rules.peak_basics(
            peaks, options, options.channel_map["top"], dtypes["peak_basics"]
        ),
        "peak_positions": plain_rules.peak_positions(
            peaks, basics, options, first_top, dtypes["peak_positions"]
        ),
        "peak_coincidences": plain_rules.coincidences(
            peaks, peaks["time"], made["peak_basics_ext"], options, dtypes["peak_coincidences"]
        ),
        "events": plain_rules.events(
            basics, options, chunks[0]["start"], chunks[-1]["end"], dtypes["events"]
        ),
        **event_rows(merged(basics, positions), made["events"], options, dtypes),
        "event_coincidences": plain_rules.coincidences(
            made["events"], made["event_basics"]["s1_time"], made["peak_basics_ext"], options,
            dtypes["event_coincidences"],
        ),
    }  # fmt: skip
    for data_type, field in (
        ("event_waveform", "data"),
        ("event_area_per_channel", "area_per_channel"),
    ):
        expected[data_type] = plain_rules.copies_of_peaks(
            made["event_basics"], peaks, field, dtypes[data_type]
        )
    expected["event_n_channel"] = expected["event_area_per_channel"]
    for data_type, rows in expected.items():
        assert_equal(made[data_type], rows, data_type)
    for part in ("event_basics", "corrected_areas"):
        # x and y of alternative S2s are those of event_positions
        both = [n for n in dtypes[part].names if n not in ("alt_s2_x", "alt_s2_y")]
        assert_equal(made["event_info"][both], made[part][both], "event_info")
    names = list(dtypes["event_positions"].names)
    assert_equal(made["event_info"][names], made["event_positions"][names], "event_info")
    check_kinds_of_events(made["event_basics"])
    for data_type in ("peak_coincidences", "event_coincidences"):
        assert 0 < made[data_type]["is_coinc"].sum() < len(made[data_type])


def check_kinds_of_events(basics):
    """Check that the dense run has events of each kind that a fault could be in."""
    has = {prefix: basics[f"{prefix}index"] >= 0 for prefix in plain_rules.PREFIXES}
    for kind in (
        ~has["s1_"] & ~has["alt_s2_"],
        ~has["s1_"] & has["alt_s2_"],
        has["s1_"] & ~has["alt_s1_"] & ~has["alt_s2_"],
        has["alt_s1_"],
        has["s1_"] & has["alt_s2_"],
        np.diff(basics["time"] // sum(CHUNKS)) > 0,
    ):
        assert kind.sum() > 2


def test_dense_run_of_xamsl(dense_run):
    st = dense_context(dense_run("xams_little"), "xams_little", {})
    peaks, basics = (load(st, d) for d in ("radon_peaks", "radon_peak_basics"))
    top_pmt = options_of(st, "radon_peak_basics").top_pmt
    expected = plain_rules.peak_basics(peaks, None, (top_pmt, top_pmt), basics.dtype)
    assert_equal(basics, expected, "radon_peak_basics")
    assert len(st.get_metadata(RUN_ID, "radon_peaks")["chunks"]) >= N_CHUNKS
    assert len(basics) > 1000


def test_led_run_with_missing_fragments(tmp_path):
    rng = np.random.default_rng(18)
    records = pulses(np.arange(1, 400) * 60_000_000 // 10, range(5), n_fragments=2, height=0)
    records["data"] += np.rint(rng.normal(0, 30, records["data"].shape)).astype(np.int16)
    records = records[rng.random(len(records)) < 0.95]
    for i in range(N_CHUNKS):
        redax.write_chunk(tmp_path / RUN_ID, i, records, THREADS, *CHUNKS)
    redax.write_end(tmp_path / RUN_ID, THREADS)
    st = dense_context(tmp_path, "xams_led", {}, allow_incomplete_pulses=True)
    raw, pulses_of_led, calibration = (
        load(st, d) for d in ("raw_records", "records_led", "led_calibration")
    )
    options = options_of(st, "records_led", "led_calibration")
    expected = plain_rules.led_rows(raw, options)
    assert len(raw) < 2 * len(expected)
    for rows in (pulses_of_led, calibration):
        for name in set(rows.dtype.names) & set(expected[0]):
            values = np.array([row[name] for row in expected])
            np.testing.assert_array_equal(rows[name], values.astype(rows[name].dtype), name)


PROPERTY = settings(max_examples=60, deadline=None, database=None)
#: Options of the property tests: both orders, all limits, S1s that are also S2s
PROPERTY_OPTIONS = [
    {},
    ANY_ORDER,
    {"event_s1_min_coincidence": 2, "tight_coincidence_window": 50},
    {"max_drift_length": 0.0008, "force_main_before_alt": True},
    {"max_drift_length": 0.0008, "allow_posts2_s1s": True},
    {
        "s1_max_width": 700,
        "s1_max_area_fraction_top": 1,
        "s1_min_channels": 1,
        "s1_min_area": 1,
        "s2_min_area": 1,
        "s2_min_channels": 1,
    },
    {"s2_min_area_fraction_top": 0.5, "s2_min_channels": 2},
]


@pytest.fixture(scope="module", params=RELEASES)
def plugins(request, tmp_path_factory):
    """Return plugins by data type, and their options, for each of PROPERTY_OPTIONS."""
    result = []
    for options in PROPERTY_OPTIONS:
        st = contexts.xams(
            output_folder=tmp_path_factory.mktemp("out"),
            init_rundb=False,
            config=dict(options),
            **request.param,
        )
        types = ("peaks", "peak_basics", "peak_positions", "events", "event_basics",
                 "event_positions", "corrected_areas", "event_waveform",
                 "event_area_per_channel")  # fmt: skip
        made = {data_type: st.get_single_plugin(RUN_ID, data_type) for data_type in types}
        result.append((made, options_of(st, *types)))
    return result


@st.composite
def peaks_without_waveform(draw):
    """Draw peaks as rows of type, area, gap and coincidence; some areas are equal."""
    row = st.tuples(
        st.sampled_from([0, plain_rules.S1, plain_rules.S1, plain_rules.S2, plain_rules.S2]),
        st.integers(0, 5),
        st.sampled_from([0, 10, 200, 700, 3000]),
        st.integers(0, 4),
    )
    return draw(st.lists(row, min_size=1, max_size=14))


@PROPERTY
@given(
    rows=peaks_without_waveform(),
    which=st.integers(0, len(PROPERTY_OPTIONS) - 1),
    seed=st.integers(0, 99),
    extension=st.sampled_from([0, 300, 2000]),
    max_duration=st.sampled_from([2000, 10**9]),
)
def test_events_of_any_peaks(plugins, rows, which, seed, extension, max_duration):
    """Events around any peaks, of any length, so without S1 or S2, or overlapping."""
    made, options = plugins[which]
    rng = np.random.default_rng(seed)
    dtypes = {
        d: np.dtype(p.dtype) for d, p in made.items() if isinstance(p.dtype, (list, np.dtype))
    }
    basics, positions = (np.zeros(len(rows), dtypes[d]) for d in ("peak_basics", "peak_positions"))
    kind, area, gap, coincidence = np.array(rows).T
    for array in (basics, positions):
        for name in array.dtype.names:
            array[name] = rng.integers(0, 50, len(rows))
            if array.dtype[name].kind == "f":
                array[name][rng.random(len(rows)) < 0.2] = np.nan
        array["time"] = START * 1_000_000_000 + np.cumsum(gap + 100)
        array["endtime"] = array["time"] + rng.integers(1, 101, len(rows))
    basics["type"], basics["area"], basics["tight_coincidence"] = kind, area, coincidence
    basics["center_time"] = basics["time"] + rng.integers(0, 100, len(rows))
    peaks = merged(basics, positions)
    is_trigger = rng.random(len(rows)) < 0.4
    spans = strax.find_peak_groups(
        peaks[is_trigger], 2 * extension + 1, extension, extension, max_duration
    )
    events = np.zeros(len(spans[0]), dtypes["events"])
    events["time"], events["endtime"] = spans
    events["event_number"] = np.arange(len(events)) + 7
    events = events[[bool(inside) for inside in plain_rules.peaks_by_event(peaks, events)]]

    expected = event_rows(peaks, events, options, dtypes)
    found = made["event_basics"].compute(events, peaks)
    assert_equal(found, expected["event_basics"], "event_basics")
    found_positions = made["event_positions"].compute(found)
    assert_equal(found_positions, expected["event_positions"], "event_positions")
    found_areas = made["corrected_areas"].compute(merged(found, found_positions))
    assert_equal(found_areas, expected["corrected_areas"], "corrected_areas")

    wide = np.zeros(len(rows), made["peaks"].dtype)
    wide["time"], wide["length"], wide["dt"] = peaks["time"], peaks["endtime"] - peaks["time"], 1
    wide["data"] = rng.integers(-5, 50, wide["data"].shape)
    wide["area_per_channel"] = rng.integers(-5, 5, wide["area_per_channel"].shape)
    copies = made["event_waveform"].compute(found, wide)
    rows = plain_rules.copies_of_peaks(found, wide, "data", copies.dtype)
    assert_equal(copies, rows, "event_waveform")
    for data_type, copies in made["event_area_per_channel"].compute(found, wide).items():
        dtype = made["event_area_per_channel"].dtype_for("event_area_per_channel")
        rows = plain_rules.copies_of_peaks(found, wide, "area_per_channel", dtype)
        assert_equal(copies, rows, data_type)


@PROPERTY
@given(
    areas=st.lists(st.lists(st.integers(-3, 12), min_size=5, max_size=5), min_size=1, max_size=8),
    which=st.integers(0, len(PROPERTY_OPTIONS) - 1),
    seed=st.integers(0, 99),
)
def test_basics_and_positions_of_any_peaks(plugins, areas, which, seed):
    """Also of peaks without area, or with a negative one, and at the limits of widths."""
    made, options = plugins[which]
    rng = np.random.default_rng(seed)
    peaks = np.zeros(len(areas), made["peaks"].dtype)
    peaks["time"] = START * 1_000_000_000 + 10_000 * np.arange(len(areas))
    peaks["dt"], peaks["length"] = 10, 20
    for name in ("n_hits", "tight_coincidence", "n_saturated_channels"):
        peaks[name] = rng.integers(0, 9, len(areas))
    peaks["area_per_channel"] = areas
    peaks["area"] = peaks["area_per_channel"].sum(axis=1)
    peaks["data"][:, :20] = rng.integers(-2, 9, (len(areas), 20))
    peaks["width"] = rng.choice([0, 10, 11, 140, 225, 226, 699, 5000], peaks["width"].shape)
    peaks["area_decile_from_midpoint"] = rng.normal(0, 50, peaks["width"].shape)
    top = options.channel_map["top"]
    basics = made["peak_basics"].compute(peaks)
    expected = plain_rules.peak_basics(peaks, options, top, basics.dtype)
    assert_equal(basics, expected, "peak_basics")
    both = np.zeros(
        len(peaks),
        [("time", "i8"), ("endtime", "i8"), ("area", "f4"), ("area_fraction_top", "f4"),
         ("area_per_channel", "f4", peaks["area_per_channel"].shape[1:])],
    )  # fmt: skip
    for name in ("time", "endtime", "area", "area_fraction_top"):
        both[name] = basics[name]
    both["area_per_channel"] = peaks["area_per_channel"]
    positions = made["peak_positions"].compute(both)
    expected = plain_rules.peak_positions(peaks, basics, options, top[0], positions.dtype)
    assert_equal(positions, expected, "peak_positions")
