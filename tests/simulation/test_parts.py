"""Parts of the truth: deposits, light, what peaks are made of, and their data types."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax import contexts, simulation
from amstrax.auto_processing import amstraxer
from amstrax.exceptions import InvalidOption, LiveDataNotFound
from amstrax.simulation import SimulatedRun, parts
from amstrax.simulation.detector import XAMS
from amstrax.simulation.light import Light, Origin
from amstrax.simulation.parts import LIGHT_DTYPE, Sensor

PROPERTY = settings(max_examples=30, deadline=None, database=None)
RUN = "000043"


def make_rows(*rows):
    """Return light of (time, deposit, event, origin, sensor, size, size of the signal)."""
    return np.array(list(rows), dtype=LIGHT_DTYPE)


def make_peaks(*intervals):
    peaks = np.zeros(len(intervals), dtype=[("time", np.int64), ("endtime", np.int64)])
    for peak, interval in zip(peaks, intervals, strict=True):
        peak["time"], peak["endtime"] = interval
    return peaks


TPC, SIPM = Sensor.TPC, Sensor.SIPM
LIGHT = make_rows(
    (100, 0, 0, Origin.S1, TPC, 40, 40),
    (110, 1, 0, Origin.S1, TPC, 60, 100),  # a second S1 of the event, of which 40 PE are elsewhere
    (120, -1, -1, Origin.DARK_COUNT, TPC, 1, 1),
    (130, 1, 0, Origin.S1, SIPM, 9, 9),
    (199, 0, 0, Origin.AFTERPULSE, TPC, 2, 2),
    (200, 0, 0, Origin.S2, TPC, 500, 1000),
    (250, 2, 1, Origin.S2, TPC, 700, 700),
    (260, 3, 2, Origin.S1, TPC, 30, 30),
    (400, 2, 1, Origin.AFTERPULSE, TPC, 3, 3),
    (500, 0, 0, Origin.S2, TPC, 7, 1000),
)


def test_composition_of_peaks():
    peaks = make_peaks((90, 150), (150, 200), (200, 300), (350, 401), (600, 700))
    found = parts.peak_composition(peaks, LIGHT)
    expected = {
        "n_pe": [101, 2, 1230, 3, 0],
        "s1_pe": [100, 0, 30, 0, 0],
        "s2_pe": [0, 0, 1200, 0, 0],
        "afterpulse_pe": [0, 2, 0, 3, 0],
        "dark_count_pe": [1, 0, 0, 0, 0],
        "origin": [Origin.S1, Origin.AFTERPULSE, Origin.S2, Origin.AFTERPULSE, -1],
        "deposit": [1, 0, 2, 2, -1],
        "deposit_pe": [60, 2, 700, 3, 0],
        "event_number": [0, 0, 1, 1, -1],
        "kind": [1, 0, 2, 0, 0],
        "n_signals": [2, 0, 2, 0, 0],  # 30 of 1230 PE are less than 5 %
        "purity": [100 / 101, np.nan, 700 / 1230, np.nan, np.nan],
        "completeness": [1, np.nan, 1, np.nan, np.nan],
    }
    # The signal is that of the event: both S1s, of 40 and 60 PE
    light = LIGHT.copy()
    light["size_of_signal"][:2] = 100
    found = parts.peak_composition(peaks, light)
    for field, values in expected.items():
        np.testing.assert_allclose(found[field], values, rtol=1e-6, err_msg=field)
    sipm = parts.peak_composition(peaks, light, SIPM)
    assert sipm["n_pe"].tolist() == [9, 0, 0, 0, 0]
    assert sipm["n_signals"].tolist() == [1, 0, 0, 0, 0]


def test_nothing_is_made_of_nothing():
    peaks = make_peaks((0, 10))
    assert len(parts.peak_composition(peaks[:0], LIGHT)) == 0
    assert parts.peak_composition(peaks, LIGHT[:0])["origin"].tolist() == [-1]
    assert (
        len(parts.light_table(Light.of(Origin.S1, *np.zeros((2, 0))), np.zeros(0, dtype=int), XAMS))
        == 0
    )


ENTRIES = st.lists(
    st.tuples(
        st.floats(0, 1e6),
        st.sampled_from([0, 1, 4, 6]),
        st.integers(1, 500),
        st.integers(-1, 3),
        st.sampled_from([Origin.S1, Origin.S2, Origin.AFTERPULSE]),
    ),
    min_size=1,
    max_size=40,
)


@PROPERTY
@given(ENTRIES, st.lists(st.integers(0, 1_000_000), min_size=2, max_size=9, unique=True))
def test_light_is_neither_lost_nor_moved(entries, edges):
    """Rows hold all photoelectrons, within half of a GRAIN, and peaks share them out."""
    time, channel, n_pe, deposit, origin = (
        np.array(column) for column in zip(*entries, strict=True)
    )
    light = Light(time, channel, n_pe, deposit, origin.astype(np.int8))
    event = np.array([7, 7, 9, 9, -1])[deposit]
    table = parts.light_table(light, event, XAMS)
    assert (np.diff(table["time"]) >= 0).all()
    sensor = np.where(channel == 6, SIPM, TPC)
    for key in {*zip(deposit.tolist(), origin.tolist(), sensor.tolist(), strict=True)}:
        own = (deposit == key[0]) & (origin == key[1]) & (sensor == key[2])
        rows = table[
            (table["deposit"] == key[0]) & (table["origin"] == key[1]) & (table["sensor"] == key[2])
        ]
        assert rows["size"].sum() == n_pe[own].sum()
        assert set(rows["event_number"]) == set(event[own])
        mean = np.average(time[own], weights=n_pe[own])
        assert np.average(rows["time"], weights=rows["size"]) == pytest.approx(mean, abs=1.5)
        near = np.abs(rows["time"][:, np.newaxis] - time[own]).min(axis=1)
        assert near.max() <= parts.GRAIN
        if key[0] >= 0:
            whole = (event == event[own][0]) & (origin == key[1]) & (sensor == key[2])
            assert (rows["size_of_signal"] == n_pe[whole].sum()).all()
    edges = sorted(edges)
    peaks = make_peaks(*zip(edges, edges[1:], strict=False))
    found = parts.peak_composition(peaks, table)
    inside = (table["time"] >= edges[0]) & (table["time"] < edges[-1]) & (table["sensor"] == TPC)
    assert found["n_pe"].sum() == table["size"][inside].sum()
    by_origin = sum(found[field] for field in parts.ORIGIN_FIELDS.values())
    np.testing.assert_array_equal(by_origin, found["n_pe"])
    has_signal = found["kind"] > 0
    for share in (found["purity"][has_signal], found["completeness"][has_signal]):
        assert ((share > 0) & (share <= 1 + 1e-6)).all()


def test_file_is_in_order_of_time_and_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PIECE", 3)
    path = tmp_path / "parts.npz"
    file = parts.PartsFile(path)
    rng = np.random.default_rng(1)
    blocks = [np.sort(rng.integers(start, start + 15, 7)) for start in range(0, 100, 10)]
    for start, times in zip(range(0, 100, 10), blocks, strict=True):
        rows = np.zeros(len(times), dtype=LIGHT_DTYPE)
        rows["time"] = times  # up to 5 later than the next block begins
        file.append("light", rows, start + 10)
    file.close()
    pieces = list(parts.load_parts(path, "light"))
    assert max(map(len, pieces)) <= 14 and len(pieces) > 10
    times = np.concatenate(pieces)["time"]
    np.testing.assert_array_equal(times, np.sort(np.concatenate(blocks)))
    between = parts.Between(parts.load_parts(path, "light"), LIGHT_DTYPE)
    edges = [0, 1, 33, 33, 80, 500, 600]
    for start, end in zip(edges, edges[1:], strict=False):
        expected = times[(times >= start) & (times < end)]
        np.testing.assert_array_equal(between(start, end)["time"], expected)
    assert len(np.concatenate(list(parts.load_parts(path, "deposits")))) == 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", None])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "parts.npz"
    if content is None:
        np.savez(path, light_000000=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(InvalidOption, match="amstrax simulate"):
        list(parts.load_parts(path, "light"))
    with pytest.raises(InvalidOption, match="cannot be read"):
        list(parts.load_parts(tmp_path / "none.npz", "light"))


def test_damaged_files_are_refused(tmp_path):
    """Bytes of the compressed rows are lost, as on a bad disk."""
    path = tmp_path / "parts.npz"
    file = parts.PartsFile(path)
    rows = np.zeros(5_000, dtype=LIGHT_DTYPE)
    rows["time"] = np.arange(5_000)
    rows["size"] = np.random.default_rng(1).random(5_000)
    file.append("light", rows, 10_000)
    file.close()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2_000] = bytes(2_000)
    path.write_bytes(content)
    with pytest.raises(InvalidOption, match="cannot be read from"):
        list(parts.load_parts(path, "light"))


def processed(folder, context, **options):
    """Return a simulated run, and a context with its truth."""
    run_dir = simulation.simulate(RUN, folder, **{"yields": "simple", "duration": 6.0} | options)
    run = SimulatedRun.at(run_dir)
    chain = getattr(contexts, context)(
        output_folder=folder / "out",
        init_rundb=False,
        config=run.options(),
        simulation_truth=run_dir,
    )
    return run, contexts.context_for_daq_reader(chain, RUN, run_doc=run.document())


def load(chain, data_type):
    return chain.get_array(RUN, data_type, progress_bar=False)


def test_truth_of_xams(tmp_path):
    run, chain = processed(tmp_path, "xams", source="na22", rate=30)
    assert {"truth_events", "peak_truth"} <= set(chain._plugin_class_registry)
    usual = contexts.xams(init_rundb=False, storage=[], config=run.options())
    assert not {"truth_events", "peak_truth"} & set(usual._plugin_class_registry)
    for data_type in usual._plugin_class_registry:
        assert str(chain.key_for(RUN, data_type)) == str(usual.key_for(RUN, data_type))
    lineage = chain.key_for(RUN, "peak_truth").lineage
    assert lineage["truth_light"][2]["simulation"] == run.simulation()

    # The tool finds the truth beside the live data, and makes the same data
    options = amstraxer.ProcessingOptions(
        targets=("peak_basics", "peak_truth"),
        live_data_dir=tmp_path,
        context_kwargs={"init_rundb": False, "output_folder": str(tmp_path / "out")},
        run_document=run.document(),
    )
    tool, options = amstraxer.make_context(options, RUN)
    assert options.context == "xams"
    assert str(tool.key_for(RUN, "peak_truth")) == str(chain.key_for(RUN, "peak_truth"))

    truth = simulation.load_truth(run.truth)
    events, deposits, light = (load(chain, f"truth_{x}") for x in ("events", "deposits", "light"))
    for field in ("event_number", "s1_pe", "s2_center_time", "external_energy"):
        np.testing.assert_array_equal(events[field], truth[field])
    np.testing.assert_array_equal(events["light_endtime"], truth["endtime"])
    of_event = deposits["event_number"]
    for field in ("energy", "photons", "electrons", "s1_pe", "s2_pe"):
        summed = np.bincount(of_event, deposits[field], len(truth))
        np.testing.assert_allclose(summed, truth[field], rtol=1e-5, err_msg=field)
    assert (deposits["electrons_extracted"] <= deposits["electrons"]).all()
    assert (deposits["electrons_extracted"] * 5 < deposits["s2_pe"]).mean() > 0.9
    for origin, field in ((Origin.S1, "s1_pe"), (Origin.S2, "s2_pe")):
        own = light[(light["origin"] == origin) & (light["sensor"] == TPC)]
        summed = np.bincount(own["event_number"], own["size"], len(truth))
        np.testing.assert_allclose(summed, truth[field])

    peaks, made_of = load(chain, "peak_basics"), load(chain, "peak_truth")
    large = made_of["n_pe"] > 300
    assert large.sum() > 150
    # Scatters of one event may give several S2s, each of them incomplete
    large &= truth["n_deposits"][made_of["event_number"]] == 1
    # One signal each, all of it, and of its size: pulses below threshold and saturation apart
    assert (made_of["purity"][large] > 0.9).mean() > 0.95
    assert (made_of["completeness"][large] > 0.95).mean() > 0.95
    s2s = large & (made_of["kind"] == 2) & (peaks["n_saturated_channels"] == 0)
    # PMTs lose a percent of their gain in the largest
    assert np.median(peaks["area"][s2s] / made_of["n_pe"][s2s]) == pytest.approx(1, abs=0.02)
    assert (made_of["kind"][large] == peaks["type"][large]).mean() > 0.95
    in_nai = load(chain, "peak_truth_ext")
    area = load(chain, "peak_basics_ext")["area"]
    assert np.median(area[in_nai["n_pe"] > 0] / in_nai["n_pe"][in_nai["n_pe"] > 0]) > 0.9
    assert (load(chain, "peak_truth_sipm")["n_pe"] > 0).mean() > 0.9


def test_truth_of_xamsl_and_of_led_runs(tmp_path, capsys):
    run, chain = processed(
        tmp_path / "xamsl", "xams_little", detector="xamsl", source="rn222", rate=5, duration=2.0
    )
    made_of, peaks = load(chain, "radon_peak_truth"), load(chain, "radon_peak_basics")
    n_pe = simulation.load_truth(run.truth)["s2_pe"]
    s2s = made_of["s2_pe"] > 1_000
    assert len(n_pe) > 3 and s2s.sum() >= len(n_pe) - 1
    assert np.median(peaks["area"][s2s]) > 1_000
    run, chain = processed(tmp_path / "led", "xams_led", source="led", duration=1.0)
    light = load(chain, "truth_light")
    flashes = light[light["origin"] == Origin.LED]
    truth = load(chain, "truth_events")
    summed = np.bincount(flashes["event_number"], flashes["size"], len(truth))
    np.testing.assert_array_equal(summed, truth["s1_pe"])
    made = tmp_path / "made"
    arguments = [
        *(RUN, "--context=xams_led", "--target", "truth_light", "--no-progress"),
        *(f"--live_data_dir={tmp_path / 'led'}", f"--output_folder={made}"),
        *(f"--testing_rundoc={run.document_path}", '--context_kwargs={"init_rundb": false}'),
    ]
    assert amstraxer.main(arguments) == 0
    assert str(chain.key_for(RUN, "truth_light")) in [path.name for path in made.iterdir()]
    run.truth.unlink()
    assert amstraxer.main(arguments) == 1
    assert "truth_000043.npy is missing" in capsys.readouterr().err


def test_the_run_document_says_which_simulation_made_the_run(tmp_path):
    quiet = XAMS.with_values(noise=0.5)
    run_dir = simulation.simulate(
        RUN, tmp_path, quiet, "am241", rate=3.0, duration=0.5, seed=8, yields="simple"
    )
    told = json.loads((tmp_path / f"rundoc_{RUN}.json").read_text())["simulation"]
    assert told["source"] == "am241" and told["seed"] == 8 and told["rate"] == 3.0
    assert told["detector"] == "xams" and told["detector_values"] == {"noise": 0.5}
    # Another simulation of that number is not what a context was made for
    run = SimulatedRun.at(run_dir)
    chain = contexts.xams(
        tmp_path / "out", init_rundb=False, config=run.options(), simulation_truth=run_dir
    )
    contexts.context_for_daq_reader(chain, RUN, run_doc=run.document())
    simulation.simulate(
        RUN, tmp_path, "xams", "am241", duration=0.5, seed=9, yields="simple", force=True
    )
    with pytest.raises(InvalidOption, match="make a context for this run"):
        load(chain, "truth_events")
    with pytest.raises(LiveDataNotFound, match="000044"):
        contexts.xams(init_rundb=False, storage=[], simulation_truth=tmp_path / "000044")


def test_truth_of_one_run_is_not_that_of_another(tmp_path):
    runs = [
        simulation.simulate(name, tmp_path, source="am241", duration=0.5, yields="simple")
        for name in (RUN, "000044")
    ]
    chain = contexts.xams(tmp_path / "out", init_rundb=False, simulation_truth=runs[0])
    run = SimulatedRun.at(runs[1])
    contexts.context_for_daq_reader(chain, run.run_id, run_doc=run.document())
    with pytest.raises(InvalidOption, match="make a context for this run"):
        chain.get_array(run.run_id, "truth_events", progress_bar=False)
