"""A user's subclass of a plugin of ours gets every field of each input."""

import functools

import numpy as np
import pytest
import strax
from make_runs import RUN_ID, context, load, pulses, write_run

import amstrax
from amstrax import contexts
from amstrax.processing.compiled import sort_by_time

PLUGINS = (
    *contexts._plugins_of("xams", "2.1"),
    *contexts._plugins_of("xams_little"),
    *contexts._plugins_of("xams_led", "2.1"),
)
NARROW = [plugin for plugin in PLUGINS if getattr(plugin, "input_fields", None)]
#: Those that release 2.2 has of its own
NARROW_2_2 = [
    plugin
    for plugin in contexts._plugins_of("xams", "2.2")
    if getattr(plugin, "input_fields", None) and plugin not in NARROW
]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Folder with live data: ten times an S1 with an S2 20 us later, in all channels."""
    folder = tmp_path_factory.mktemp("live")
    starts = np.arange(1, 11) * 20_000_000
    s1 = pulses(starts, range(7), height=300)
    s2 = pulses(starts + 20_000, range(7), n_fragments=4, width=380)
    write_run(folder, sort_by_time(np.concatenate([s1, s2])))
    return folder


@pytest.fixture
def st(request, live, tmp_path, online_config):
    """Context, of a release, that processes this run into a folder of the test's."""
    result = context(live, release=getattr(request, "param", None), **online_config)
    result.storage = [strax.DataDirectory(str(tmp_path))]
    return result


def reads_all_fields(parent, seen):
    """Return a subclass whose compute reads each field of each input, and notes it in `seen`."""

    @functools.wraps(parent.compute)
    def compute(self, **inputs):
        for kind, data_types in self.dependencies_by_kind().items():
            for data_type in data_types:
                names = self.deps[data_type].dtype_for(data_type).names
                assert set(names) <= set(inputs[kind].dtype.names)
                seen[data_type] = sum(len(inputs[kind][name]) for name in names)
        return parent.compute(self, **inputs)

    return type(f"My{parent.__name__}", (parent,), {"compute": compute, "__version__": "mine"})


def test_plugins_that_take_only_some_fields():
    assert len(NARROW) == 9 and len(NARROW_2_2) == 2
    for plugin in NARROW:
        assert {"input_fields", "compute"} <= vars(plugin).keys(), plugin


@pytest.mark.parametrize(
    ("st", "plugin"),
    [("2.1", plugin) for plugin in NARROW] + [("2.2", plugin) for plugin in NARROW_2_2],
    indirect=["st"],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_compute_of_a_subclass_reads_every_field(st, plugin):
    seen = {}
    expected = {d: load(st, d) for d in strax.to_str_tuple(plugin.provides)}
    st.storage = [strax.DataDirectory(st.storage[0].path, exclude=tuple(expected))]
    # Of a subclass that has a compute, and of one that inherits it
    mine = reads_all_fields(plugin, seen)
    for cls in (mine, type("MySubclass", (mine,), {"__version__": "other"})):
        seen.clear()
        st.register(cls)
        for data_type, array in expected.items():
            np.testing.assert_array_equal(load(st, data_type)["time"], array["time"])
        assert set(seen) == set(strax.to_str_tuple(plugin.depends_on))
        assert all(seen.values())


def test_compute_of_a_mixin(st):
    class LargePeaks:
        def compute(self, peaks, start, end):
            return super().compute(peaks[peaks["n_channels"] >= 5], start, end)

    class MyEvents(LargePeaks, amstrax.Events):
        __version__ = "mine"

    st.register(MyEvents)
    assert len(load(st, "events")) == 10


def test_helper_that_a_subclass_overrides(st):
    class MyWaveforms(amstrax.EventWaveform):
        def copy(self, events, peaks, field, result):
            super().copy(events, peaks[peaks["area"] > 0], field, result)

    class MyCoincidences(amstrax.EventCoincidences):
        def coincidences(self, things, times, peaks_ext):
            assert (things["s2_area"] > 0).any() and len(peaks_ext["data"])
            return super().coincidences(things, times, peaks_ext)

    st.register((MyWaveforms, MyCoincidences))
    assert len(load(st, "event_waveform")) == len(load(st, "event_coincidences")) == 10


def test_other_inputs(st):
    """Types of a plugin of the user's, and areas from peaks: nothing but depends_on differs."""

    class AllS2(strax.Plugin):
        depends_on = "peaks"
        provides = "my_types"
        data_kind = "peaks"
        dtype = [(("Type of the peak", "type"), np.int8), *strax.time_fields]

        def compute(self, peaks):
            time, endtime = peaks["time"], strax.endtime(peaks)
            return dict(type=np.full(len(peaks), 2), time=time, endtime=endtime)

    class MyEvents(amstrax.Events):
        depends_on = ("peaks", "my_types")

    st.register((AllS2, MyEvents))
    assert len(load(st, "events")) == 10


def test_fields_that_a_subclass_chooses(st):
    class MyPositions(amstrax.PeakPositions):
        input_fields = {"peaks": ("area_per_channel",)}

        def compute(self, peaks):
            assert "width" not in peaks.dtype.names and "max_pmt" in peaks.dtype.names
            return super().compute(peaks)

    st.register(MyPositions)
    assert len(load(st, "peak_positions"))


def test_fields_without_a_compute_are_all(st):
    """The inherited compute needs those of its own class."""

    class MyEvents(amstrax.Events):
        input_fields = {"peak_basics": ("n_channels",)}

    st.register(MyEvents)
    assert len(st.get_array(RUN_ID, "events", progress_bar=False)) == 10
