"""Options that change nothing, columns without information, and options that are off by default."""

import re
import types

import numpy as np
import pytest
import strax
from make_runs import RELEASED, RUN_ID, context, load, pulses, rundoc, write_run

import amstrax
from amstrax import contexts
from amstrax.commands.base import CONTEXTS
from amstrax.exceptions import InvalidOption
from amstrax.plugins.peak_processing import EMPTY_COLUMNS, Peaks
from amstrax.processing import peaks as kernels
from amstrax.processing import waveforms
from amstrax.processing.compiled import sort_by_time
from amstrax.processing.peaks import find_hits

SIPM_REGISTERS = [{"reg": f"1{c}80", "val": "100000" if c == 6 else "110000"} for c in range(7)]


def some_context(name, release=None, **config):
    kwargs = {} if release is None else {"release": release}
    return getattr(contexts, name)(init_rundb=False, storage=[], config=config, **kwargs)


# ---- Options that change no number ----


def codes(code):
    """Yield a code object and those within it, as of comprehensions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def strings(code):
    for constant in code.co_consts:
        yield from (x for x in np.atleast_1d(constant).tolist() if isinstance(x, str))


def options_in_use(cls):
    """Return the options that methods name which strax calls, or which these call.

    That is ``self.NAME``, or ``NAME`` as a string where ``config`` is named.
    """
    ours = [c for c in cls.__mro__ if c.__module__.split(".")[0] == "amstrax"]

    def method(name, after=None):
        for c in ours if after is None else ours[ours.index(after) + 1 :]:
            if name in vars(c):
                found = vars(c)[name]
                for inner in ("fget", "func", "__func__"):
                    found = getattr(found, inner, None) or found
                return (c, found) if isinstance(found, types.FunctionType) else None
        return None

    named, seen = set(), set()
    waiting = [method(name) for name in {*dir(strax.Plugin), *dir(strax.CutPlugin)}]
    while waiting:
        entry = waiting.pop()
        if entry is None or entry in seen:
            continue
        seen.add(entry)
        owner, function = entry
        for code in codes(function.__code__):
            named.update(code.co_names)
            if "config" in code.co_names:
                named.update(strings(code))
            waiting += [method(name) for name in code.co_names]
            if "super" in code.co_names:
                waiting += [method(name, owner) for name in code.co_names]
    return named & set(cls.takes_config)


def said_to_be_unused(option, cls):
    _, _, rest = option.help.partition("Not used")
    if not rest and not option.help.endswith("Not used"):
        return False
    by = rest.split(";")[0].split(".")[0].removeprefix(" by ")
    return not by or bool(set(by.split(", ")) & set(strax.to_str_tuple(cls.provides)))


@pytest.mark.parametrize(("name", "release"), RELEASED)
def test_options_that_change_nothing_say_so_and_no_others(name, release):
    for cls in dict.fromkeys(some_context(name, release)._plugin_class_registry.values()):
        used = options_in_use(cls)
        for option in cls.takes_config.values():
            assert said_to_be_unused(option, cls) == (option.name not in used), (
                f"{cls.__name__}, {option.name}: {option.help}"
            )


def test_an_option_that_is_not_used_is_found():
    class Mine(Peaks):
        peak_split_min_height_new = contexts.corrections.XAMSConfig(default=1, help="Height [PE]")

    assert "peak_split_min_height_new" not in options_in_use(Mine)
    assert {"peak_min_pmts", "gain_to_pe_array", "n_tpc_pmts"} <= options_in_use(Mine)


CHANGED = {
    "pmt_pulse_filter": (0.5, 0.25, 0.25),
    "save_outside_hits": (0, 0),
    "hit_min_amplitude": 500,
}


def test_unused_options_of_xams_change_the_hash_and_no_number(tmp_path):
    """What the help says of them is so, and the hit threshold of peaks is 15."""
    times = np.arange(1, 60) * 1_000_000
    write_run(tmp_path, pulses(times, range(5), height=16, width=60))
    st = context(tmp_path, peak_min_area=0)
    before = {d: load(st, d) for d in ("records", "peaks")}
    assert len(before["peaks"]) == len(times)
    other = st.new_context(config=CHANGED)
    for data_type, array in before.items():
        keys = [c.key_for(RUN_ID, data_type).lineage_hash for c in (st, other)]
        assert keys[0] != keys[1]
        assert load(other, data_type).tobytes() == array.tobytes()


# ---- Columns without information ----

#: Columns that the run itself makes constant
OF_THE_RUN = {"dt", "channel", "baseline", "length", "pulse_length", "record_i", "max_pmt"}

#: Columns of one channel, of one threshold, or of signals that are small in this run
ALWAYS_ONE = {
    "peak_basics_ext": {"n_channels"},
    "peak_basics_sipm": {"n_channels"},
    "radon_hits": {"threshold"},
    "event_basics": {"alt_s1_n_saturated_channels"},
    "event_info": {"alt_s1_n_saturated_channels"},
    "event_kr83m": {"kr_quality", "s2_a_area", "s2_b_area", "s2_delay"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All data of a run with S1s, S2s, small pulses, and split peaks, by context and type."""
    result = {}
    for name in CONTEXTS:
        folder = tmp_path_factory.mktemp(name)
        write_run(folder, varied_pulses(name), n_chunks=2)
        document = rundoc(registers=SIPM_REGISTERS)
        st = context(folder, name, document, **OPTIONS.get(name, {}))
        result[name] = {d: load(st, d) for d in reversed(st._plugin_class_registry)}
        st = st.new_context(
            config={"tight_coincidence_window": 50, "correct_positive_polarity": True}
        )
        result[name, "on"] = {d: load(st, d) for d in reversed(st._plugin_class_registry)}
    return result


OPTIONS = {
    "xams": dict(
        s1_max_area_fraction_top=1,
        s2_min_area_fraction_top=0,
        s1_min_channels=1,
        s2_min_channels=1,
        absorption_peak_delta=10**9,
        peak_min_area=60,
    )
}


#: Time [ns], width [samples] and number of fragments
SIGNALS = ((0, 20, 1), (30_000, 380, 4), (60_000, 300, 4), (80_000, 60, 1))


def varied_pulses(name):
    """Return raw records of S1s, S2s of two humps, and small pulses, of all sizes."""
    rng = np.random.default_rng(1)
    dt = 2 if name == "xams_little" else 10
    channels = {"xams": range(7), "xams_led": range(5), "xams_little": (0, 1)}[name]
    parts = []
    for i in range(150):
        start = 50_000_000 * (i + 1)
        n_led = 2 if name == "xams_led" else 1
        for time, height in ((10_000_000, 500), (12_000_000, 16 + i % 9)):
            parts.append(pulses([start + time], [channels[i % 2]], n_led, dt, height, 4))
        for channel in channels:
            if rng.random() < 0.15:
                continue
            level = 400 if channel == 6 and name == "xams" else 16_000
            sign = 1 if channel == 6 and name == "xams" else -1
            for shift, width, fragments in SIGNALS:
                if name == "xams_led" and fragments != 1:
                    continue
                n = n_led if name == "xams_led" else fragments
                height = float(rng.uniform(20, 2000) if rng.random() < 0.9 else 16_000)
                begin = start + shift + dt * int(rng.integers(0, 4))
                part = pulses([begin], [channel], n, dt, height, width, level, sign)
                if rng.random() < 0.5:
                    # A second hump, and a part of the baseline behind the point
                    part["data"] = part["data"] // 2 + np.roll(part["data"], 60) // 2
                noise = rng.integers(-1, 2, part["data"].shape)
                part["data"] = np.clip(part["data"] + noise, 0, 2**14 - 1)
                parts.append(part)
    return sort_by_time(np.concatenate(parts))


def without_information(values):
    """Whether a column has a single value, or only those that stand for nothing."""
    values = values.ravel().astype(np.float64)
    some = np.unique(values[~np.isnan(values)])
    return len(some) + np.isnan(values).any() <= 1 or set(some.tolist()) <= {0.0, -1.0}


@pytest.mark.parametrize("name", CONTEXTS)
def test_columns_without_information_are_those_that_are_documented(made, name):
    for data_type, array in made[name].items():
        documented = EMPTY_COLUMNS.get(data_type, {})
        if data_type.startswith("raw_records") or not len(array):
            continue
        partly = {c for c, text in documented.items() if "parts of split peaks unless" in text}
        empty = {c for c in array.dtype.names if without_information(array[c])}
        expected = set(documented) - partly
        given = OF_THE_RUN | ALWAYS_ONE.get(data_type, set())
        # Cuts may keep all events of this run
        given |= {c for c in array.dtype.names if c.endswith("_dt") or c.startswith("cut_")}
        assert empty - given == expected - given, data_type
        for column in expected:
            value = re.match(r"(?:always )?(NaN|-?\d+)", documented[column])[1]
            assert np.isin(float(value), np.unique(array[column])) or (
                value == "NaN" and np.isnan(array[column]).all()
            ), (data_type, column)


def test_options_fill_the_columns_that_need_them(made):
    for name in ("xams", "xams_little"):
        for data_type, documented in EMPTY_COLUMNS.items():
            if data_type not in made[name]:
                continue
            off, on = made[name][data_type], made[name, "on"][data_type]
            for column, text in documented.items():
                if "unless" in text:
                    assert off[column].tobytes() != on[column].tobytes(), (data_type, column)
    n_parts = 0
    for data_type in ("peaks", "peaks_ext", "peaks_sipm"):
        on = made["xams", "on"][data_type]
        assert len(on) > 200
        assert (on["n_hits"] > 0).all() and (on["max_gap"] >= 0).all()
        assert (on["tight_coincidence"] > 0).mean() > 0.5
        assert set(on["first_channel"]) <= set(range(-1, 7))
        assert (on["min_diff"] <= on["max_diff"]).all()
        off = made["xams"][data_type]
        is_part = off["max_gap"] == -1
        assert not off["n_hits"][is_part].any()
        n_parts += is_part.sum()
    assert n_parts > 10


# ---- Options that are in the lineage only where they are set ----


@pytest.mark.parametrize(
    ("option", "off", "on", "changed"),
    [
        (
            "correct_positive_polarity",
            False,
            True,
            ("records", "records_ext", "records_sipm", "pulse_counts", "peaks", "event_info"),
        ),
        ("tight_coincidence_window", None, 50, ("peaks", "peaks_ext", "peaks_sipm", "peak_basics")),
    ],
)
def test_options_that_are_off_leave_the_lineage(option, off, on, changed):
    default = some_context("xams")
    for data_type in changed:
        keys = [
            st.key_for("0", data_type).lineage_hash
            for st in (default, some_context("xams", **{option: off}))
        ]
        assert keys[0] == keys[1], data_type
        assert some_context("xams", **{option: on}).key_for("0", data_type).lineage_hash != keys[0]


@pytest.mark.parametrize("window", [-1, "50", True, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["xams", "xams_little"])
def test_windows_that_cannot_be(tmp_path, name, window):
    write_run(tmp_path, pulses([1_000_000], 0, dt=2))
    st = context(tmp_path, name, tight_coincidence_window=window)
    with pytest.raises(InvalidOption, match="tight_coincidence_window="):
        load(st, "peaks" if name == "xams" else "radon_peaks")


@pytest.mark.parametrize("value", ["False", "no", None, 0.5])
@pytest.mark.parametrize(
    ("option", "data_type"),
    [
        *(("correct_positive_polarity", d) for d in ("records", "records_sipm", "peaks_sipm")),
        ("allow_posts2_s1s", "event_basics"),
    ],
)
def test_options_that_are_neither_on_nor_off(tmp_path, option, data_type, value):
    """A text is not taken for True, whatever it says."""
    write_run(tmp_path, pulses([1_000_000], range(7)))
    st = context(tmp_path, **{option: value})
    with pytest.raises(InvalidOption, match=f"{option}={value!r}: give True or False"):
        load(st, data_type)
    for good in (0, 1, True):
        st.set_config({option: good})
        load(st, data_type)


def events_of(st, **config):
    return st.get_array(RUN_ID, "event_basics", config=config, progress_bar=False)


def test_coincidence_of_s1s(tmp_path):
    """S1s in 5 channels, of which 3 are at the same time; S2s after them."""
    starts = 20_000_000 * np.arange(1, 40)
    together = pulses(starts, range(3), height=300)
    late = pulses(starts + 150, (3, 4), height=250)
    s2 = pulses(starts + 20_000, range(5), n_fragments=4, width=380)
    write_run(tmp_path, sort_by_time(np.concatenate([together, late, s2])))
    st = context(
        tmp_path,
        s1_max_area_fraction_top=1,
        s2_min_area_fraction_top=0,
        s1_max_width=400,
        s2_min_width=400,
    )
    assert (events_of(st)["s1_area"] > 0).all()
    with pytest.raises(InvalidOption, match="set the option tight_coincidence_window") as error:
        events_of(st, event_s1_min_coincidence=1)
    assert "event_s1_min_coincidence=1" in str(error.value) and len(str(error.value)) <= 200
    for least, found in ((3, True), (4, False)):
        events = events_of(st, event_s1_min_coincidence=least, tight_coincidence_window=50)
        assert len(events) == len(starts)
        assert ((events["s1_index"] >= 0) == found).all()
    events = events_of(st, event_s1_min_coincidence=3, tight_coincidence_window=50)
    assert (events["s1_tight_coincidence"] == 3).all()
    # Wide enough for all five
    events = events_of(st, event_s1_min_coincidence=5, tight_coincidence_window=500)
    assert (events["s1_index"] >= 0).all()


def test_coincidence_is_refused_before_any_data_is_made(tmp_path):
    write_run(tmp_path, pulses([1_000_000], range(5)))
    st = context(tmp_path, event_s1_min_coincidence=2)
    with pytest.raises(InvalidOption, match="tight_coincidence_window"):
        load(st, "event_info")
    assert not any(st.is_stored(RUN_ID, d) for d in ("raw_records", "peaks", "event_basics"))


def test_coincidence_of_a_user_with_own_names(tmp_path):
    """Plugins between peaks and event_basics have any name."""

    class MyBasics(amstrax.PeakBasics):
        __version__ = "1"
        provides = "my_basics"

    class MyEvents(amstrax.EventBasics):
        __version__ = "1"
        depends_on = ("events", "my_basics")
        provides = "my_events"

        def compute(self, events, peaks):
            return np.zeros(len(events), self.dtype)

    write_run(tmp_path, pulses([1_000_000], range(5)))
    st = context(tmp_path, event_s1_min_coincidence=2)
    st.register((MyBasics, MyEvents))
    with pytest.raises(InvalidOption, match="of peaks is 0: set the option tight_coincidence_wind"):
        load(st, "my_events")
    st.set_config({"tight_coincidence_window": 50})
    load(st, "my_events")


def test_coincidence_with_peaks_of_another_plugin(tmp_path):
    """A user's own peaks may fill tight_coincidence without the option."""

    class MyPeaks(strax.Plugin):
        __version__ = "1"
        depends_on = ("records",)
        provides = "peaks"
        data_kind = "peaks"
        dtype = strax.peak_dtype(n_channels=5)

        def compute(self, records):
            hits = find_hits(records, by_time=True)
            options = dict(gap_threshold=300, left_extension=0, right_extension=0, min_area=0)
            gains = np.ones(5)
            peaks = kernels.find_peaks(hits, gains, self.dtype, min_channels=1, **options)
            waveforms.sum_waveform(peaks, hits, records, waveforms.record_links(records), gains)
            waveforms.set_widths(peaks)
            peaks["tight_coincidence"] = 5
            return peaks

    starts = 20_000_000 * np.arange(1, 10)
    s1, s2 = pulses(starts, range(5)), pulses(starts + 20_000, range(5), n_fragments=4, width=380)
    write_run(tmp_path, sort_by_time(np.concatenate([s1, s2])))
    st = context(tmp_path, event_s1_min_coincidence=5, s1_max_area_fraction_top=1)
    st.register(MyPeaks)
    assert (load(st, "event_basics")["s1_index"] >= 0).all()
