"""Simulated runs: the files, read by somebody else's eyes, and the whole chain on them."""

import importlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import strax

from amstrax import contexts, simulation
from amstrax.commands.simulate import main
from amstrax.exceptions import DataExists, InvalidOption, NotAvailable, Stopped
from amstrax.simulation import blocks
from amstrax.simulation.detector import XAMS

RUN = "000042"


def simulate(folder: Path, **options) -> Path:
    """Simulate a short run without nestpy, which is not what these tests are about."""
    return simulation.simulate(RUN, folder, **{"duration": 12.0, "yields": "simple"} | options)


def processed(folder: Path, context="xams", **config):
    """Return a context for the run in `folder`, set up as a user would."""
    options = simulation.load_options(folder / f"config_{RUN}.json")
    st = getattr(contexts, context)(
        output_folder=folder / "out",
        init_rundb=False,
        config={"live_data_dir": str(folder), **options, **config},
    )
    document = json.loads((folder / f"rundoc_{RUN}.json").read_text())
    return contexts.context_for_daq_reader(st, RUN, run_doc=document)


def load(st, data_type):
    return st.get_array(RUN, data_type, progress_bar=False)


def files(folder: Path) -> dict[str, bytes]:
    """Return what each file below a folder holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


#: The format as ../shared/spec/README.md tells it, without strax
FRAGMENT = np.dtype(
    {
        "names": ["time", "length", "dt", "channel", "pulse_length", "record_i", "baseline", "x"],
        "formats": ["<i8", "<i4", "<i2", "<i2", "<i4", "<i2", "<i2", ("<i2", 110)],
        "offsets": [0, 8, 12, 14, 16, 20, 22, 24],
        "itemsize": 244,
    }
)


def fragments(directory: Path) -> np.ndarray:
    parts = [
        np.frombuffer(lz4.frame.decompress(path.read_bytes()), dtype=FRAGMENT)
        for path in sorted(directory.iterdir())
    ]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two readout processes with three threads each."""
    folder = tmp_path_factory.mktemp("simulated")
    return simulate(folder, source="na22", rate=40, n_hosts=2, n_threads=3)


def test_directories_are_those_of_redax(run):
    assert {path.name for path in run.iterdir()} == {
        *("000000", "000000_post", "000001_pre", "000001", "000001_post"),
        *("000002_pre", "000002", "000002_post", "THE_END"),
    }
    for directory in run.iterdir():
        threads = [path.name.rpartition("_")[0] for path in directory.iterdir()]
        assert sorted(threads) == ["xams-daq_reader_0"] * 3 + ["xams-daq_reader_1"] * 3


def test_an_independent_reader_finds_fragments_where_they_belong(run):
    length, overlap = 5_000_000_000, 500_000_000
    n_twins = 0
    for directory in run.iterdir():
        if directory.name == "THE_END":
            continue
        number, _, part = directory.name.partition("_")
        start = int(number) * (length + overlap)
        lowest, highest = {
            "": (start, start + length),
            "pre": (start - overlap, start),
            "post": (start + length, start + length + overlap),
        }[part]
        found = fragments(directory)
        assert len(found) or directory.name == "000002_post"
        assert np.all((found["time"] >= lowest) & (found["time"] < highest))
        twin = run / f"{int(number) + 1:06d}_pre"
        if part == "post" and twin.exists():
            n_twins += 1
            assert files(directory) == files(twin)
    assert n_twins == 2


def test_an_independent_reader_finds_self_triggered_pulses(run):
    found = np.concatenate([fragments(run / name) for name in ("000000", "000000_post")])
    found = found[np.lexsort((found["time"], found["channel"]))]
    for channel in XAMS.channels:
        own = found[found["channel"] == channel]
        assert np.all(own["dt"] == 10)
        first = own[own["record_i"] == 0]
        assert len(first) > 20
        ends = first["time"] + 10 * first["pulse_length"]
        assert np.all(first["time"][1:] >= ends[:-1]), "pulses of a channel overlap"
        # Fragments of a pulse follow each other, full but for the last
        more = np.flatnonzero(own["record_i"])
        assert np.all(own["record_i"][more] == own["record_i"][more - 1] + 1)
        assert np.all(own["time"][more] == own["time"][more - 1] + 1100)
        assert np.all(own["length"] == np.minimum(110, own["pulse_length"] - 110 * own["record_i"]))
        # The trigger: the first sample over threshold comes after so many quiet ones
        sign = 1 if channel == XAMS.sipm_channel else -1
        height = sign * (first["x"].astype(int) - int(XAMS.baselines[channel]))
        apart = np.append(True, first["time"][1:] - ends[:-1] > 1000)
        assert np.all(height[apart, : XAMS.pre_trigger] < XAMS.threshold)
        assert np.all(height[apart, XAMS.pre_trigger] >= XAMS.threshold)
        noise = np.hypot(XAMS.noise, 1 / np.sqrt(12))  # and rounding
        assert np.median(np.std(height[apart, :20], axis=1)) == pytest.approx(noise, rel=0.1)


def test_the_run_document_says_how_to_read_the_run(run):
    document = json.loads((run.parent / f"rundoc_{RUN}.json").read_text())
    assert document["name"] == RUN and document["number"] == 42
    assert document["mode"] == "sim_na22_nai"
    assert document["start"] == {"$date": "2024-01-02T03:04:05.000Z"}
    assert document["end"] == {"$date": "2024-01-02T03:04:17.000Z"}
    config = document["daq_config"]
    assert config["processing_threads"] == {"xams-daq_reader_0": 3, "xams-daq_reader_1": 3}
    values = {register["reg"]: register["val"] for register in config["registers"]}
    assert values["1680"] == "100000" and values["1080"] == values["1580"] == "110000"
    assert document["data"][0]["location"] == str(run.parent)


def test_what_was_simulated_is_told(tmp_path):
    detector = XAMS.with_values(electron_lifetime=12_345.0)
    simulate(tmp_path, detector=detector, seed=8, duration=1.0)
    told = json.loads((tmp_path / f"simulation_{RUN}.json").read_text())
    assert told["seed"] == 8 and told["source"] == "kr83m"
    assert told["detector"]["electron_lifetime"] == 12_345.0


@pytest.fixture(scope="module")
def st(run):
    return processed(run.parent, g1=0.1, g2=5.0)  # event_energy has no defaults


@pytest.mark.slow
def test_the_chain_finds_the_events(run, st):
    truth = simulation.load_truth(run.parent / f"truth_{RUN}.npy")
    events = load(st, "event_info")
    assert 400 < len(truth) < 560
    assert 0.97 * len(truth) < len(events) <= len(truth)
    distance = np.abs(events["s2_center_time"][:, np.newaxis] - truth["s2_center_time"])
    there = (truth["s2_pe"] > 200) & (truth["n_deposits"] == 1)
    assert np.median(distance.min(axis=0)[there]) < 20  # two samples


def test_coincidences_are_those_of_the_pairs(run, st):
    truth = simulation.load_truth(run.parent / f"truth_{RUN}.npy")
    events, coincidences = load(st, "event_info"), load(st, "event_coincidences")
    distance = np.abs(events["s1_center_time"][:, np.newaxis] - truth["s1_center_time"])
    row = distance.argmin(axis=0)
    found = distance.min(axis=0) < 100
    assert found.mean() > 0.95
    true = np.abs(truth["external_energy"] - 511) < 55
    assert true.sum() > 20
    assert coincidences["is_coinc"][row[found & true]].mean() > 0.97
    none = truth["external_energy"] == 0
    assert coincidences["is_coinc"][row[found & none]].mean() < 0.02


def test_every_data_type_of_xams_is_made(st):
    for data_type in st._plugin_class_registry:
        assert len(load(st, data_type)), data_type


def test_positive_pulses_with_their_polarity_corrected(tmp_path):
    """SiPM pulses go up: quiet samples average 0, and saturation is that of the digitizer."""
    detector = XAMS.with_values(sipm_area=5e4, sipm_dark_rate=300.0, electron_lifetime=30_000.0)
    simulate(tmp_path, detector=detector, rate=60, duration=8.0)
    first_context = processed(tmp_path)
    raw = load(first_context, "raw_records_sipm")
    found = {}
    for corrected in (False, True):
        st = first_context.new_context(config={"correct_positive_polarity": corrected})
        records = load(st, "records_sipm")
        assert len(raw) == len(records) > 2000 and raw["data"].max() <= 0
        first = records[records["record_i"] == 0]
        exact = first["data"][:, : XAMS.pre_trigger - 5] + first["baseline"][:, np.newaxis] % 1
        # Pulses that follow another at once have no samples before
        quiet = exact[abs(exact).max(axis=1) < 10 * XAMS.noise]
        found[corrected] = quiet.mean(), load(st, "peaks_sipm")
    assert 0.8 < found[False][0] < 1
    assert abs(found[True][0]) < 0.02
    (_, wrong), (_, peaks) = found.values()
    assert wrong["n_saturated_channels"].all()
    # Peaks that hold a sample at the end of the ADC's range, and no others
    sample = np.flatnonzero((raw["data"] == -(2**14 - 1)).any(axis=1))
    full = raw["time"][sample] + 10 * (raw["data"][sample] == -(2**14 - 1)).argmax(axis=1)
    before = np.searchsorted(full, [peaks["time"], strax.endtime(peaks)])
    n_full = np.diff(before, axis=0)[0]
    assert 10 < np.count_nonzero(n_full) < len(peaks) - 10
    np.testing.assert_array_equal(peaks["n_saturated_channels"], n_full > 0)
    np.testing.assert_array_equal(peaks["saturated_channel"][:, XAMS.sipm_channel], n_full > 0)
    basics = load(st, "peak_basics_sipm")
    np.testing.assert_array_equal(basics["n_saturated_channels"], n_full > 0)
    # The TPC's pulses go down, and stay as they were
    assert len(load(st, "peaks")) > 100
    for data_type in ("records", "peaks"):
        assert load(st, data_type).tobytes() == load(first_context, data_type).tobytes()


def test_led_runs_pass_their_context_and_show_the_occupancy(tmp_path):
    simulate(tmp_path, source="led", duration=6.0, occupancy=0.3)
    truth = simulation.load_truth(tmp_path / f"truth_{RUN}.npy")
    led = load(processed(tmp_path, "xams_led"), "led_calibration")
    assert len(led) == 5 * len(truth) == 5 * 1199
    for channel, area in enumerate(XAMS.photoelectron_areas):
        own = led["area"][led["channel"] == channel]
        mean, error = own.mean(), own.std() / np.sqrt(len(own))
        assert mean == pytest.approx(0.3 * area, abs=4 * error + 1)


@pytest.mark.slow
def test_xamsl_runs_pass_their_context(tmp_path):
    simulate(tmp_path, detector="xamsl", source="rn222", rate=10, duration=8.0)
    st = processed(tmp_path, "xams_little")
    truth = simulation.load_truth(tmp_path / f"truth_{RUN}.npy")
    raw = load(st, "raw_records_v1730")
    assert set(raw["channel"]) == {0, 1} and set(raw["dt"]) == {2}
    peaks = load(st, "radon_peak_basics")
    # An S1 and an S2 each, apart from those on top of each other; dark counts are smaller
    assert 1.8 * len(truth) < np.count_nonzero(peaks["area"] > 5000) <= 2 * len(truth)


def test_the_same_seed_gives_the_same_bytes(tmp_path, monkeypatch):
    """With any number of threads, which share the generator of NEST."""
    results = []
    for i, (seed, n_helpers) in enumerate(((3, 4), (3, 1), (4, 2))):
        monkeypatch.setattr(blocks, "_HELPERS", n_helpers)
        simulate(tmp_path / str(i), seed=seed, yields="nest", rate=20)
        results.append(files(tmp_path / str(i)))
        results[-1].pop(f"rundoc_{RUN}.json")  # names the folder
    same, again, other = results
    assert same == again
    assert same.keys() == other.keys() and same != other


def test_compressors_and_threads_hold_the_same_data(tmp_path):
    simulate(tmp_path / "lz4")
    simulate(tmp_path / "blosc", compressor="blosc", n_threads=4)
    first, second = (load(processed(tmp_path / name), "raw_records") for name in ("lz4", "blosc"))
    assert len(first) > 100
    np.testing.assert_array_equal(first, second)


def test_a_run_without_events_passes_the_chain(tmp_path):
    detector = XAMS.with_values(dark_rate=0, sipm_dark_rate=0, external_rate=0)
    simulate(tmp_path, detector=detector, rate=0)
    st = processed(tmp_path)
    assert len(simulation.load_truth(tmp_path / f"truth_{RUN}.npy")) == 0
    assert len(load(st, "raw_records")) == len(load(st, "event_info")) == 0


def test_runs_may_end_at_any_time_and_pulses_be_long(tmp_path):
    detector = XAMS.with_values(pre_trigger=1000, fragment_samples=50)
    simulate(tmp_path, detector=detector, rate=200, duration=5.50001)
    truth = simulation.load_truth(tmp_path / f"truth_{RUN}.npy")
    # Nothing is lost where blocks and chunks meet
    peaks = load(processed(tmp_path, gain_to_pe_array=(0.01,) * 7), "peak_basics")
    found = np.searchsorted(peaks["time"], truth["s2_center_time"]) - 1
    assert np.all(truth["s2_center_time"] < peaks["endtime"][found])


def test_nothing_is_overwritten_unasked(tmp_path):
    run = simulate(tmp_path)
    before = files(tmp_path)
    with pytest.raises(DataExists, match=f"{run}.*--force"):
        simulate(tmp_path, seed=9)
    assert files(tmp_path) == before
    simulate(tmp_path, seed=9, force=True)
    after = files(tmp_path)
    assert after.keys() == before.keys() and after != before


def test_the_same_run_is_kept_if_it_is_complete(tmp_path):
    run = simulate(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert simulate(tmp_path) == run
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    for other in ({"compressor": "blosc"}, {"detector": XAMS.with_values(noise=9)}, {"n_hosts": 2}):
        with pytest.raises(DataExists):
            simulate(tmp_path, **other)
    document = tmp_path / f"rundoc_{RUN}.json"
    whole = document.read_text()
    document.write_text(json.dumps(json.loads(whole) | {"end": None}))
    with pytest.raises(DataExists):
        simulate(tmp_path)
    document.write_text(whole)
    (tmp_path / f"truth_{RUN}.npy").unlink()
    with pytest.raises(DataExists):
        simulate(tmp_path)


def test_a_run_that_is_given_up_leaves_nothing_and_spares_what_is_there(tmp_path):
    simulate(tmp_path)
    before = files(tmp_path)
    asked = iter([False] * 3 + [True])
    with pytest.raises(Stopped):
        simulate(tmp_path, seed=5, force=True, stop=lambda: next(asked))
    assert files(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 6


def test_remains_of_a_killed_simulation_are_named(tmp_path, caplog):
    """And a run of less than a millisecond has no length in its document."""
    (tmp_path / f".{RUN}_abc").mkdir()
    run = simulate(tmp_path, duration=4e-4, source="led")
    assert f".{RUN}_abc is of another or a killed simulation" in caplog.text
    with pytest.raises(InvalidOption, match=r"rundoc_000042.json has a run of 0 s.*longer"):
        simulation.SimulatedRun.at(run).duration()


def test_in_real_time_a_run_grows_and_ends_early_when_stopped(tmp_path):
    seen = []

    def stop():
        document = json.loads((tmp_path / f"rundoc_{RUN}.json").read_text())
        assert document["end"] is None
        assert not (tmp_path / f"truth_{RUN}.npy").exists()
        seen.append({path.name for path in (tmp_path / RUN).iterdir()})
        return "000000_post" in seen[-1]

    began = datetime.now(UTC)
    run = simulate(tmp_path, realtime=20, duration=60.0, stop=stop)
    assert (datetime.now(UTC) - began).total_seconds() >= 5.5 / 20
    assert {"000000"} in seen
    names = {path.name for path in run.iterdir()}
    assert {"000000", "000000_post", "THE_END"} <= names and "000003" not in names
    document = json.loads((tmp_path / f"rundoc_{RUN}.json").read_text())
    assert document["end"] is not None
    assert len(simulation.load_truth(tmp_path / f"truth_{RUN}.npy"))
    assert len(load(processed(tmp_path), "event_info"))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(rate=-1), "rate cannot be -1 Hz"),
        (dict(rate=float("nan")), "rate cannot be nan"),
        (dict(duration=0), "cannot take 0 s"),
        (dict(duration=float("inf")), "cannot take inf s"),
        (dict(seed=-3), "seed cannot be -3"),
        (dict(source="uranium"), "no source 'uranium'"),
        (dict(source="cs137", energy_range=(1, 2)), "cs137 has fixed energies"),
        (dict(source="nr", energy_range=(1, 400)), "range from 1 to 400 keV"),
        (dict(source_position=(60, 0, 0)), "kr83m is not outside"),
        (dict(backgrounds={"wal": 1}), "no source 'wal'; did you mean wall"),
        (dict(backgrounds={"wall": -1}), "rate cannot be -1 Hz, of wall"),
        (dict(backgrounds={"led": 1}), "'led' with source 'kr83m': LED runs have no xenon"),
        (dict(detector="xmas"), "no detector 'xmas'; did you mean xams"),
        (dict(energy_range=(5, 2), source="flat"), "range from 5 to 2 keV"),
        (dict(energy_range=(1, 2)), "kr83m has fixed energies"),
        (dict(yields="magic"), "'magic': take one of nest, simple"),
        (dict(compressor="zip"), "'zip'"),
        (dict(n_threads=0), "threads cannot be 0"),
        (dict(realtime=0), "speed of real time cannot be 0"),
        (dict(occupancy=-1), "occupancy cannot be -1"),
        (dict(source="led", detector="xamsl"), "no LED runs of xamsl"),
    ],
)
def test_odd_values_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(InvalidOption, match=message):
        simulate(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_run_ids_are_digits(tmp_path):
    with pytest.raises(InvalidOption, match=r"'\.\./1'"):
        simulation.simulate("../1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["simulate", "demo", "validate"])
def test_commands_that_simulate_take_the_remedy(command):
    """The error without nestpy names --yields."""
    parse_args = importlib.import_module(f"amstrax.commands.{command}").parse_args
    run_id = [RUN] * (command == "simulate")
    assert parse_args([*run_id, "--yields=simple"]).yields == "simple"


def test_without_nestpy_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nestpy", None)
    with pytest.raises(NotAvailable, match=r"pip install 'amstrax\[simulation\]'.*--yields simple"):
        simulate(tmp_path, yields="nest")
    with pytest.raises(NotAvailable):
        simulate(tmp_path, yields="nest", realtime=10)
    assert list(tmp_path.iterdir()) == []
    assert main([RUN, f"--output={tmp_path}", "--duration=1", "--yields=simple"]) == 0


@pytest.mark.slow
def test_the_command_says_what_comes_next_and_that_works(tmp_path, served_scripts):
    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [served_scripts / command[0], *command[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )

    options = ["--duration=6", "--set=dt=10", "--set", "electron_lifetime=5e4"]
    done = run("amstrax", "simulate", RUN, f"--output={tmp_path}", *options)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    command = done.stdout.partition("\n  ")[2].split()
    assert command[0] == "amstraxer"
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert "event_info" in again.stderr


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "RUN_ID is missing"),
        (["1", "--set", "radius"], 2, "write NAME=VALUE"),
        (["1", "--set", "radius=wide"], 2, "'wide' is no number"),
        (["1", "--set", "radius=-2"], 1, "radius of detector xams cannot be -2"),
        (["1", "--set", "radiuz=2"], 1, "did you mean radius"),
        (
            ["1", "--set", "dt=2.5"],
            1,
            "cannot be 2.5: it must be a whole number",
        ),
        (["1", "--rate", "-1"], 1, "rate cannot be -1.0 Hz"),
        (["1", "--output", "{folder}/file/below"], 1, "{folder}/file"),
    ],
)
def test_wrong_use_of_the_command_is_one_line(
    tmp_path, monkeypatch, capsys, arguments, status, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    try:
        returned = main([argument.format(folder=tmp_path) for argument in arguments])
    except SystemExit as error:
        returned = error.code
    assert returned == status
    lines = [line for line in capsys.readouterr().err.splitlines() if " INFO " not in line]
    assert message.format(folder=tmp_path) in lines[-1]
    assert sum("ERROR" in line or "error:" in line for line in lines) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_numbers_and_sources_are_listed(capsys):
    assert main(["--numbers", "--set", "radius=20"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["radius"] == 20 and numbers["processing_options"]["s1_max_width"] == 140
    with pytest.raises(SystemExit) as ended:
        main(["--sources"])
    assert ended.value.code == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(simulation.SOURCES)
