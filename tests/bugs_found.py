"""Tests that fail: bugs found in the code, each with its shortest example.

Not collected, since the name does not begin with test_. To run it:
``python -m pytest tests/bugs_found.py``. A test that passes belongs in the file that it names.
"""

import blosc
import lz4.frame
import numpy as np
import pytest
import strax

from amstrax import common, redax, rundoc, settings
from amstrax.exceptions import AmstraxError, InvalidOption, InvalidRunDocument, LiveDataCorrupted
from amstrax.hitfinder_thresholds import hit_min_amplitude
from amstrax.processing import events, pulses

DTYPE = np.dtype(strax.raw_record_dtype(10))


# --- test_redax.py ---------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 2, 8, 20])
def test_damaged_blosc_file_is_refused(tmp_path, position):
    """blosc_extension.error is neither a RuntimeError nor a ValueError, so it comes through."""
    blob = bytearray(blosc.compress(bytes(500), shuffle=blosc.NOSHUFFLE))
    blob[position] ^= 0xFF
    (tmp_path / "file").write_bytes(blob)
    with pytest.raises(LiveDataCorrupted, match="file"):
        redax.read_file(tmp_path / "file", "blosc", DTYPE)


def test_damaged_blosc_header_is_refused(tmp_path):
    """The header says 2**31 bytes of data: blosc raises, in the end, a SystemError."""
    blob = bytearray(blosc.compress(bytes(500), shuffle=blosc.NOSHUFFLE))
    blob[4:8] = (2**31).to_bytes(4, "little")
    (tmp_path / "file").write_bytes(blob)
    with pytest.raises(LiveDataCorrupted, match="file"):
        redax.read_file(tmp_path / "file", "blosc", DTYPE)


def test_bytes_behind_an_lz4_frame_are_not_passed_over(tmp_path):
    """Records of a second frame, or damage, vanish without a word; blosc files are refused."""
    frame = lz4.frame.compress(np.zeros(2, dtype=DTYPE).tobytes())
    (tmp_path / "file").write_bytes(frame + frame)
    with pytest.raises(LiveDataCorrupted, match="file"):
        redax.read_file(tmp_path / "file", "lz4", DTYPE)


def test_write_file_names_unknown_compressor_as_read_file_does(tmp_path):
    with pytest.raises(InvalidOption, match="zstd"):
        redax.write_file(tmp_path / "file", np.zeros(2, dtype=DTYPE), "zstd")


# --- test_rundoc.py --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "daq_config",
    [
        {"strax_chunk_length": float("inf")},  # OverflowError
        {"strax_chunk_length": 1e-12},  # a chunk of 0 ns
        {"strax_fragment_payload_bytes": 1},  # a record length of 0
        {"strax_fragment_payload_bytes": 221},  # 110 samples and a half
        {"registers": 5},  # TypeError
    ],
)
def test_odd_daq_config_is_refused(daq_config):
    document = {"start": "2024-01-02T03:04:05Z", "daq_config": {"processing_threads": {"a": 1}}}
    document["daq_config"].update(daq_config)
    with pytest.raises(InvalidRunDocument):
        rundoc.reader_config(document)


def test_time_before_1970():
    """The message says that it must be a time, and it is one (pymongo's json_util writes this)."""
    start = rundoc.start_time({"start": {"$date": {"$numberLong": "-1000"}}})
    assert start.timestamp() == -1


# --- test_settings.py ------------------------------------------------------------------------


def test_file_of_settings_in_another_encoding(tmp_path, monkeypatch):
    """UnicodeDecodeError, though get() promises InvalidOption for a file it cannot read."""
    path = tmp_path / "config"
    path.write_bytes("[default]\nSOME_SETTING = /data/caf\xe9\n".encode("latin-1"))
    monkeypatch.setenv("AMSTRAX_CONFIG", str(path))
    with pytest.raises(AmstraxError, match="config"):
        settings.get("SOME_SETTING")


# --- test_common.py --------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [{0, 3}, {0: "a", 3: "b"}.keys(), (c for c in (0, 3))])
def test_select_channels_of_any_iterable(channels):
    """numpy.ravel makes one object of a set, so nothing is selected, without a word."""
    things = np.array([(0,), (1,), (3,)], dtype=[("channel", np.int16)])
    assert common.select_channels(things, channels)["channel"].tolist() == [0, 3]


def test_get_config_defaults_excludes():
    """Context.show_config shows the plugins before a data type too, so exclude does nothing."""

    @strax.takes_config(strax.Option("of_source", default=5))
    class Source(strax.Plugin):
        provides = "source_things"
        depends_on = ()
        dtype = strax.time_fields

    @strax.takes_config(strax.Option("of_derived", default=5))
    class Derived(strax.Plugin):
        provides = "derived"
        depends_on = "source_things"
        dtype = strax.time_fields

    context = strax.Context(register=[Source, Derived])
    for arguments in ({"exclude": ["source"]}, {"include": ["derived"]}):
        table = common.get_config_defaults(context, **arguments)
        assert list(table["option"]) == ["of_derived"]


# --- test_hitfinder_thresholds.py ------------------------------------------------------------


def test_numpy_integer_is_a_number():
    """numpy.float64 is taken (it is a float), numpy.int64 is not."""
    assert hit_min_amplitude(np.int64(15), 2).tolist() == [15, 15]


# --- processing/test_pulses.py ---------------------------------------------------------------


def test_plain_python_twins_hold_real_baselines():
    """The sum of int16 in plain Python stays int16 (numpy 2): 3 x 16000 overflows."""
    data = np.full(3, 16_000, dtype=np.int16)
    assert pulses._mean_and_std(data, 3) == (16_000, 0)
    assert pulses._mean_and_std.py_func(data, 3) == (16_000, 0)


def test_plain_python_twin_holds_real_areas():
    """The same with the area of a record: 5 x 14000 (left: compiled, right: plain)."""
    areas = []
    for kernel in (pulses._subtract_baseline, pulses._subtract_baseline.py_func):
        records = np.zeros(1, dtype=strax.record_dtype(10))
        records["data"][0, 5:] = -14_000
        records["length"] = 10
        kernel(records, 4, -1, False, 0, True)
        areas.append(int(records["area"][0]))
    assert areas == [70_000, 70_000]


def test_orphan_fragment_is_no_part_of_a_lone_pulse():
    """Its area, 100, is added to that of the lone pulse before it in its channel, 5."""
    records = np.zeros(3, dtype=strax.record_dtype(10))
    records["time"], records["record_i"] = [100, 9000, 20_000], [0, 1, 0]
    records["pulse_length"], records["area"] = [10, 20, 10], [5, 100, 7]
    records["dt"], records["length"] = 10, 10
    assert pulses.count_pulses(records, 1, 0, 30_000)["lone_pulse_area"][0] == 5


# --- processing/test_events.py ---------------------------------------------------------------


def test_events_do_not_overlap_at_high_rates():
    """strax.find_peak_groups ends a group after 1 s (max_duration), and then extends both.

    S2s every 0.5 ms for 1.5 s: events of 0.5 to 999.551 ms and 999.5 to 1500.551 ms. The peaks in
    both belong to the first alone (strax warns), and the module says that events do not overlap.
    """
    peaks = np.zeros(3000, dtype=[*strax.time_fields, ("area", "f4"), ("type", "i2")])
    peaks["time"] = 1_000_000 + np.arange(3000) * 500_000
    peaks["endtime"] = peaks["time"] + 1000
    peaks["area"], peaks["type"] = 100, 2
    begin, end = events.group_triggers(peaks, 10, 500_000, 50_000, 0, 10**10)
    assert (begin[1:] >= end[:-1]).all()
