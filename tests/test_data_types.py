"""Every registered data type is made, also in parallel and of no data at all."""

import numpy as np
import pytest
from make_runs import RAW_DTYPE, RELEASED, RUN_ID, context, load, pulses, write_run

from amstrax.processing.compiled import sort_by_time
from amstrax.strax_ext.storage import DataDirectory

#: Channels with data in each context: XAMSL's chain takes one digitizer
CHANNELS = {"xams": range(7), "xams_led": range(5), "xams_little": (0, 1)}


def make_all(st, workers=1):
    """Make every data type, from the last on, which stores some before; return them."""
    made = {}
    for data_type in reversed(st._plugin_class_registry):
        st.make(RUN_ID, data_type, save=data_type, max_workers=workers, progress_bar=False)
        assert st.is_stored(RUN_ID, data_type), data_type
        made[data_type] = load(st, data_type)
    return made


def busy_run(folder, name, n_chunks=3, release=None):
    """Write a run with an S1 and an S2 every 20 ms, or LED pulses, over all of its chunks.

    For release 2.2, which inverts no raw data, pulses of the SiPM go up.
    """
    dt = 2 if name == "xams_little" else 10
    step = 20_000_000
    starts = np.arange(step, n_chunks * 5_500_000_000 - step, step)
    if name == "xams_led":
        records = pulses(starts, CHANNELS[name], n_fragments=2)
    else:
        s1 = pulses(starts, CHANNELS[name], dt=dt, height=300)
        s2 = pulses(starts + 20_000, CHANNELS[name], n_fragments=4, dt=dt, width=380)
        records = sort_by_time(np.concatenate([s1, s2]))
    if release == "2.2":
        is_sipm = records["channel"] == 6
        records["data"][is_sipm] = 16383 - records["data"][is_sipm]
    return write_run(folder, records, n_chunks)


@pytest.mark.parametrize(("name", "release"), RELEASED)
def test_all_types_with_one_and_two_workers(tmp_path, name, release, online_config):
    busy_run(tmp_path, name, release=release)
    results = []
    for workers in (1, 2):
        options = online_config if name == "xams" else {}
        st = context(tmp_path, name, release=release, **options)
        st.storage = [DataDirectory(str(tmp_path / f"out{workers}"))]
        results.append(make_all(st, workers))
    one, two = results
    must_have_rows = {
        "xams": ("peaks", "peak_basics_ext", "peak_basics_sipm", "event_info", "hits"),
        "xams_led": ("records_led", "led_calibration"),
        "xams_little": ("radon_hits", "radon_peaks", "radon_peak_basics"),
    }
    for data_type in must_have_rows[name]:
        assert len(one[data_type]) > 100, data_type
    for data_type, array in one.items():
        for field in array.dtype.names:
            # NaN counts as equal in plain arrays only
            message = f"{data_type}/{field}"
            np.testing.assert_array_equal(array[field], two[data_type][field], err_msg=message)
        assert (np.diff(array["time"]) >= 0).all() or data_type == "radon_hits"


@pytest.mark.parametrize(("name", "release"), RELEASED)
@pytest.mark.parametrize("workers", [1, 2])
def test_all_types_of_no_data(tmp_path, name, release, workers):
    write_run(tmp_path, np.zeros(0, dtype=RAW_DTYPE), n_chunks=2)
    st = context(tmp_path, name, release=release)
    for data_type, array in make_all(st, workers).items():
        # One row a chunk, whatever is in it
        assert len(array) == (2 if data_type.endswith("pulse_counts") else 0), data_type


@pytest.mark.parametrize(("name", "release"), RELEASED)
def test_empty_chunk_between_others(tmp_path, name, release):
    """A chunk without a single pulse is as good as any other, and so is a run with one chunk."""
    times = np.array([1_000_000_000, 12_000_000_000])
    records = pulses(times, CHANNELS[name], n_fragments=2 if name == "xams_led" else 1)
    write_run(tmp_path, records, n_chunks=3)
    made = make_all(context(tmp_path, name, release=release))
    raw = {"xams": "raw_records", "xams_led": "raw_records", "xams_little": "raw_records_v1730"}
    assert len(np.unique(made[raw[name]]["time"] // 1_000_000_000)) == 2


def test_radon_chain_takes_channel_0_alone_and_the_other_digitizer(tmp_path):
    """Data of channel 0 only, and of the V1724 only, are data."""
    for i, channel in enumerate((0, 2)):
        folder = tmp_path / str(i)
        write_run(folder, pulses([1_000_000, 2_000_000], channel, dt=2))
        made = make_all(context(folder, "xams_little"))
        assert set(made["radon_records"]["channel"]) == {channel}
        assert len(made["radon_peaks"]) == 2
        assert made["radon_pulse_counts"]["pulse_count"][0, channel] == 2


def test_event_numbers_count_on_through_the_run(tmp_path, online_config):
    """Also over chunks whose borders events come near to."""
    busy_run(tmp_path, "xams")
    st = context(tmp_path, **online_config)
    numbers = [
        chunk.data["event_number"] for chunk in st.get_iter(RUN_ID, "events", progress_bar=False)
    ]
    assert len(numbers) >= 3
    flat = np.concatenate(numbers)
    np.testing.assert_array_equal(flat, np.arange(len(flat)))


def test_lone_hits_and_peaks_hold_all_hits(tmp_path):
    """A hit is in a peak or is a lone one: small hits alone make no peak."""
    small = pulses([1_000_000, 3_000_000], 0, height=16)
    large = pulses([2_000_000], 1, height=500)
    write_run(tmp_path, sort_by_time(np.concatenate([small, large])))
    st = context(tmp_path, peak_min_area=100)
    made = make_all(st)
    assert len(made["hits"]) == 3
    assert len(made["peaks"]) == 1
    np.testing.assert_array_equal(made["lone_hits"], made["hits"][made["hits"]["channel"] == 0])
