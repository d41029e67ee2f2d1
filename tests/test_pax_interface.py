"""Raw records from events with the interface of pax."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import strax

import amstrax
from amstrax import contexts
from amstrax.exceptions import InvalidOption, LiveDataCorrupted, LiveDataNotFound, NotAvailable
from amstrax.plugins.pax_interface import RecordsFromPax, pax_to_records

RUN_ID = "000123"
START = 1_500_000_000_000_000_000
BASELINE = 16000


def event(i, n_channels=3, n_samples=250, dt=10, left=500, step=1_000_000):
    """Return an event with a pulse in each channel, which holds a triangle of 800 counts."""
    data = np.full(n_samples, BASELINE, dtype=np.int16)
    data[60:80] -= np.concatenate([np.linspace(80, 800, 10), np.linspace(800, 80, 10)]).astype("i2")
    pulses = [SimpleNamespace(channel=c, left=left + c, raw_data=data) for c in range(n_channels)]
    start = START + i * step
    return SimpleNamespace(
        start_time=start, stop_time=start + 100_000, sample_duration=dt, pulses=pulses
    )


def test_pulses_are_cut_into_fragments():
    (records,) = pax_to_records([event(0)])
    assert records.dtype == np.dtype(strax.raw_record_dtype())
    assert len(records) == 3 * 3
    assert (np.diff(records["time"]) >= 0).all()
    own = records[records["channel"] == 1]
    assert own["time"].tolist() == [START + (501 + 110 * i) * 10 for i in range(3)]
    assert own["record_i"].tolist() == [0, 1, 2]
    assert own["length"].tolist() == [110, 110, 30]
    assert (own["pulse_length"] == 250).all() and (own["dt"] == 10).all()
    whole = np.concatenate([r["data"][: r["length"]] for r in own])
    assert whole.tolist() == event(0).pulses[1].raw_data.tolist()
    assert (own["data"][2, 30:] == 0).all()


def test_events_per_chunk_and_samples_per_record():
    chunks = list(pax_to_records([event(i) for i in range(7)], 50, events_per_chunk=3))
    assert [len(c) for c in chunks] == [45, 45, 15]
    assert chunks[0]["data"].shape[1] == 50


def test_width_of_a_sample():
    silent = event(0)
    del silent.sample_duration
    (records,) = pax_to_records([silent], dt=4)
    assert (records["dt"] == 4).all() and records["time"][0] == START + 500 * 4
    (records,) = pax_to_records([event(0, dt=2)], dt=4)
    assert (records["dt"] == 2).all()


def test_no_events_and_events_without_pulses():
    assert list(pax_to_records([])) == []
    (records,) = pax_to_records([event(0, n_channels=0)])
    assert len(records) == 0 and records.dtype == np.dtype(strax.raw_record_dtype())


def broken(**changes):
    """Return an event whose first pulse has something else."""
    result = event(0)
    for name, value in changes.items():
        if value is None:
            delattr(result.pulses[0], name)
        else:
            setattr(result.pulses[0], name, value)
    return result


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(SimpleNamespace(pulses=[]), "has no start_time", id="no start"),
        pytest.param(SimpleNamespace(start_time=1), "has no pulses", id="no pulses"),
        pytest.param(broken(raw_data=None), "has no raw_data", id="no data"),
        pytest.param(broken(left=None), f"{START} ns has no left", id="no left"),
        pytest.param(
            broken(raw_data=np.array([5, 40_000])), "channel 0 .* 5 to 40000", id="too large"
        ),
    ],
)
def test_events_that_are_none(bad, message):
    with pytest.raises(LiveDataCorrupted, match=message):
        list(pax_to_records([bad]))


@pytest.mark.parametrize("name", ["samples_per_record", "events_per_chunk", "dt"])
def test_values_that_make_no_sense(name):
    with pytest.raises(InvalidOption, match=f"{name} cannot be 0"):
        list(pax_to_records([event(0)], **{name: 0}))


def test_file_without_pax(tmp_path):
    if importlib.util.find_spec("pax") is not None:
        pytest.skip("pax is installed")
    path = tmp_path / "XENON1T-0-000000000.zip"
    with pytest.raises(LiveDataNotFound, match="no data of pax at .*zip"):
        list(pax_to_records(path))
    path.write_bytes(b"")
    with pytest.raises(NotAvailable, match="needs pax, which is not installed"):
        list(pax_to_records(str(path)))


def make_context(folder, events=None, **config):
    class RecordsFromElsewhere(RecordsFromPax):
        def events(self, run_id):
            return super().events(run_id) if events is None else events(run_id)

    return contexts.xams(
        output_folder=folder,
        init_rundb=False,
        register=[RecordsFromElsewhere],
        forbid_creation_of=(),
        config=config,
    )


def load(st, data_type="raw_records"):
    return st.get_array(RUN_ID, data_type, progress_bar=False)


def test_from_events_to_peaks(tmp_path):
    asked = []

    def events(run_id):
        asked.append(run_id)
        return (event(i) for i in range(25))

    st = make_context(tmp_path, events, events_per_chunk=10)
    st.make(RUN_ID, "raw_records", progress_bar=False)
    raw = load(st)
    assert set(asked) == {RUN_ID}
    assert len(raw) == 25 * 9
    np.testing.assert_array_equal(raw, np.concatenate(list(pax_to_records(events(RUN_ID)))))
    chunks = st.get_metadata(RUN_ID, "raw_records")["chunks"]
    assert len(chunks) == 3
    assert all(a["end"] == b["start"] for a, b in zip(chunks, chunks[1:], strict=False))
    peaks = load(st, "peak_basics")
    assert len(peaks) == 25
    true_area = 3 * 2 * np.linspace(80, 800, 10).astype("i2").sum()
    assert peaks["area"] == pytest.approx(np.full(25, true_area), rel=1e-3)


@pytest.mark.parametrize(
    ("events", "error", "message"),
    [
        pytest.param([], LiveDataNotFound, "no events of pax", id="none"),
        pytest.param(
            [event(1), event(0)], LiveDataCorrupted, "sort the events", id="in the wrong order"
        ),
        pytest.param(
            [event(0), event(1, step=50_000)], LiveDataCorrupted, "overlap", id="overlapping"
        ),
    ],
)
def test_run_that_cannot_be_read(tmp_path, events, error, message):
    st = make_context(tmp_path, lambda run_id: events, events_per_chunk=1)
    with pytest.raises(error, match=message):
        load(st)


def test_run_without_pax(tmp_path):
    st = make_context(tmp_path, pax_raw_dir=str(tmp_path / "pax"))
    with pytest.raises(LiveDataNotFound, match=f"pax/{RUN_ID}"):
        load(st)


def test_names():
    assert amstrax.RecordsFromPax is RecordsFromPax
    assert amstrax.pax_to_records is pax_to_records
