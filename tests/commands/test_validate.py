"""The command that judges the reconstruction, on simulated runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from make_jobs import made_once
from matplotlib.figure import Figure

from amstrax import cli, contexts, simulation
from amstrax.analyses import validation_plots, validation_text
from amstrax.commands import simulate, validate
from amstrax.exceptions import LiveDataNotFound
from amstrax.simulation import SimulatedRun

#: Reports, one of each kind, whose figures are drawn
DRAWN = ("validate", "validate_xamsl", "validate_led")
BLANK = (validation_plots, "plot_validation", lambda *args: Figure((1, 1)))


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def blank_figures(monkeypatch):
    """Draw the figures of DRAWN alone, since figures take most of the time."""
    monkeypatch.setattr(*BLANK)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with a report of a short run at a low rate, and its data."""
    return once(
        tmp_path_factory, "validate", ["--duration=30", "--rate=10", "--keep", "--no-progress"]
    )


def once(tmp_path_factory, name, arguments):
    """Return the folder of a validation, which is made once for all workers."""

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AMSTRAX_CONFIG", os.devnull)
            if name not in DRAWN:
                patch.setattr(*BLANK)
            assert validate.main([*arguments, f"--output={folder / 'out'}"]) == 0

    return made_once(tmp_path_factory, name, make) / "out"


@pytest.fixture(scope="module")
def report(made):
    return validation_text.read_report(made / "validation.json")


def test_a_failure_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise LiveDataNotFound("no disk")

    monkeypatch.setattr(validate, "assess", fail)
    there = tmp_path / "there"
    there.mkdir()
    for output in (tmp_path / "new/deep", there):
        options = ["--duration=1", "--rate=10", "--no-progress", f"--output={output}"]
        assert validate.main(options) == 1
    # What was there stays
    assert files(tmp_path) == ["there"] and files(there) == []


def test_a_reader_may_have_had_enough(made, served_scripts):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [served_scripts / "amstrax", "validate", "--report", made / "validation.json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def number(report, name):
    entry = report["numbers"][name]
    return entry["value"], entry["error"]


@pytest.mark.slow
def test_files(made):
    assert files(made) == ["data", "validation.json", "validation.pdf", "validation.png"]
    assert (made / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert (made / "validation.pdf").read_bytes().startswith(b"%PDF")
    assert SimulatedRun.at(made / "data/live_data" / validate.RUN_ID).duration() == 30
    assert not list(made.glob(".*"))


def test_how_well_events_are_reconstructed(report):
    """What the project has set itself, at a low rate and with the ONLINE options."""
    assert report["n_truth"] > 200
    assert number(report, "s1_efficiency")[0] > 0.99
    assert number(report, "s2_efficiency")[0] > 0.995
    for kind in ("s1", "s2"):
        assert abs(number(report, f"{kind}_area_bias")[0]) < 0.01
    assert number(report, "drift_time_error")[0] < 50
    merged, error = number(report, "events_merged")
    assert abs(merged - number(report, "events_merged_expected")[0]) <= error
    bias, error = number(report, "elife_per_electron_bias")
    assert abs(bias) < 0.02 + 2 * error
    assert error < 0.5  # of 300 us, 8 times the longest drift


def test_numbers_are_those_of_the_stored_data(made, report):
    """The bias of S2 areas and the number of S1s, computed anew from what is stored."""
    run = SimulatedRun.at(made / "data/live_data" / validate.RUN_ID)
    st = contexts.xams(made / "data/processed", init_rundb=False, config=run.options())
    truth = np.load(run.truth)
    events = st.get_array(run.run_id, "event_info", progress_bar=False)
    peaks = st.get_array(run.run_id, "peak_basics", progress_bar=False)
    assert report["n_truth"] == len(truth)
    assert report["n_events"] == len(events)
    assert report["n_peaks"] == len(peaks)
    assert sum(row[0] for row in report["matrix"]["counts"]) == (peaks["type"] == 1).sum()
    nearest = np.abs(events["s2_center_time"][:, np.newaxis] - truth["s2_center_time"]).argmin(1)
    ratio = events["s2_area"] / truth["s2_pe"][nearest]
    assert number(report, "s2_area_bias")[0] == pytest.approx(np.median(ratio) - 1, abs=2e-3)
    assert report["made"]["lineage"] == st.key_for(run.run_id, "event_info").lineage_hash


@pytest.mark.slow
def test_a_worse_configuration_is_seen_in_the_comparison(made, tmp_path, capsys):
    """On the same run: wide S1s do not count, and S2s get half their area."""
    run_dir = made / "data/live_data" / validate.RUN_ID
    options = json.loads((run_dir.parent / f"config_{validate.RUN_ID}.json").read_text())
    worse = {
        "s1_max_width": 32,
        "gain_to_pe_array": [gain / 2 for gain in options["gain_to_pe_array"]],
    }
    arguments = [
        f"--live_data={run_dir}",
        f"--config_kwargs={json.dumps(worse)}",
        f"--output={tmp_path / 'worse'}",
        f"--compare={made / 'validation.json'}",
        "--workers=2",
    ]
    assert validate.main(arguments) == 0
    text = capsys.readouterr().out
    report = validation_text.read_report(tmp_path / "worse/validation.json")
    assert number(report, "s1_efficiency")[0] < 0.8
    assert number(report, "s2_area_bias")[0] == pytest.approx(-0.5, abs=0.02)
    _, comparison = text.split("Compared with")
    row = next(line for line in comparison.splitlines() if line.endswith("largest peak is an S1"))
    assert float(row.split()[3]) < -5  # sigma
    # Read again, and compared the other way round, without a simulation
    arguments = [f"--report={made}/validation.json", f"--compare={tmp_path}/worse/validation.json"]
    assert validate.main(arguments) == 0
    _, comparison = capsys.readouterr().out.split("Compared with")
    row = next(line for line in comparison.splitlines() if line.endswith("largest peak is an S1"))
    assert float(row.split()[3]) > 5


def test_same_seed_gives_the_same_report(made, report, tmp_path):
    """It replaces another one, when it is told to."""
    (tmp_path / "validation.json").write_text("old")
    arguments = ["--duration=30", "--rate=10", f"--output={tmp_path}", "--force"]
    assert validate.main(arguments) == 0
    again = validation_text.read_report(tmp_path / "validation.json")
    again["made"].pop("time")
    expected = {**report, "made": {k: v for k, v in report["made"].items() if k != "time"}}
    np.testing.assert_equal(again, expected)
    assert files(tmp_path) == ["validation.json", "validation.pdf", "validation.png"]


def test_reports_are_not_replaced_unasked(made, capsys):
    before = (made / "validation.json").stat().st_mtime_ns
    assert validate.main([f"--output={made}"]) == 1
    assert "--force" in capsys.readouterr().err
    assert (made / "validation.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=kr83"], "kr83"),
        (["--live_data=nowhere/000001"], "nowhere/000001"),
        (["--compare=nowhere.json"], "nowhere.json"),
        (["--report=nowhere.json"], "nowhere.json"),
        (["--duration=1", '--config_kwargs={"s1_min_area": "three"}'], "--debug"),
        # Before a run that would take days
        (["--duration=1e6", '--config_kwargs={"s1_min_aera": 3}'], "s1_min_area"),
        (["--duration=1e6", '--options=a={"s1_min_aera": 3}'], "s1_min_area"),
        (["--duration=1e6", "--reconstruction=hitz"], "hits"),
        (["--duration=1e6", '--options=a={"reconstruction": ["hitz"]}'], "hits"),
        (["--duration=1e6", "--detector=xamsl", "--reconstruction=hits"], "xams_little"),
        (["--background=wall=1", "--background=wall=2"], "wall"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert validate.main(["--output=out", *arguments]) in (1, 2)
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    # Nothing is left
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate=-1"],
        ["--duration=0"],
        ["--detector=xenon"],
        ["--options=worse"],
        ["--options=a/b={}"],
        ["--options=a=[1]"],
        ["--options=a={}", "--options=a={}"],
        ["--pile_up=0"],
        ["--pile_up=50", "--live_data=000001"],
        ["--pile_up=50", "--source=led"],
        ["--truth=truth.npy"],
        ["--config_kwargs=[1]"],
        ["--workers=0"],
        # What would be ignored
        ["--source=cs137", "--live_data=000001"],
        ["--background=wall=1", "--live_data=000001"],
        ["--seed=1", "--report=validation.json"],
        ["--reconstruction=hits", "--report=validation.json"],
    ],
    ids=str,
)
def test_wrong_use(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        validate.parse_args(arguments)
    assert error.value.code == 2
    assert arguments[0].partition("=")[0] in capsys.readouterr().err


def test_output_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert validate.main([f"--output={tmp_path}/file/out"]) == 1
    assert "file" in capsys.readouterr().err


@pytest.mark.slow
def test_what_the_run_was_simulated_with_is_known(tmp_path, monkeypatch, capsys):
    """Of a run that is there: other losses than usual, which are the truth then."""
    monkeypatch.chdir(tmp_path)
    detector = simulation.DETECTORS["xams"].with_values(electron_lifetime=15_000.0)
    simulation.simulate("000077", ".", detector, "am241", rate=20, duration=10, seed=5)
    assert validate.main(["--live_data=000077", "--output=out"]) == 0
    assert "am241 in xams, 10 s, 20 Hz, seed 5" in capsys.readouterr().out
    report = validation_text.read_report("out/validation.json")
    value, error = number(report, "elife_per_electron")
    assert abs(value - 15_000) < 4 * error
    assert error < 500
    assert number(report, "elife_per_electron_bias")[0] == pytest.approx(value / 15_000 - 1)
    # Without that file and document the truth is not known
    os.remove("simulation_000077.json")
    path = tmp_path / "rundoc_000077.json"
    document = json.loads(path.read_text())
    del document["simulation"]
    path.write_text(json.dumps(document))
    os.remove("parts_000077.npz")
    assert validate.main(["--live_data=000077", "--output=other"]) == 0
    report = validation_text.read_report("other/validation.json")
    assert np.isnan(number(report, "elife_per_electron_bias")[0])
    assert number(report, "elife_per_electron") == (value, error)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A short run that uses all options of the simulation, its report, and the folder of both."""
    arguments = [
        *("--source=cs137", "--rate=20", "--duration=3", "--seed=4", "--yields=simple", "--keep"),
        *("--source_position", "60", "0", "-25", "--background=wall=3", "--background=gas=2"),
        *("--occupancy=0.3", "--optics=inverse_of_reconstruction", "--without", "afterpulses"),
        *("--set=noise=1.6", "--reconstruction=hits"),
    ]
    return once(tmp_path_factory, "validate_short", arguments)


def test_all_options_of_the_simulation_arrive(short):
    report = validation_text.read_report(short / "validation.json")
    told = report["made"]["simulation"]
    expected = {
        "source_position": [60, 0, -25],
        "backgrounds": {"wall": 3, "gas": 2},
        "occupancy": 0.3,
        "optics": "inverse_of_reconstruction",
        "without": ["afterpulses"],
        "detector_values": {"noise": 1.6},
        "yields": "simple",
    }
    assert {name: told[name] for name in expected} == expected
    assert report["made"]["reconstruction"] == ["hits"]
    run = SimulatedRun.at(short / "data/live_data" / validate.RUN_ID)
    st = contexts.xams(init_rundb=False, storage=[], config=run.options(), reconstruction="hits")
    assert report["made"]["lineage"] == st.key_for(run.run_id, "event_info").lineage_hash
    # No option of the command that simulates is missing, but those on the format of files
    own, other = (
        vars(parse(words)).keys()
        for parse, words in ((validate.parse_args, []), (simulate.parse_args, ["1"]))
    )
    of_files = {"run_id", "numbers", "compressor", "hosts", "threads", "start", "realtime"}
    assert other - own == of_files


def test_truth_that_does_not_fit(short, tmp_path, capsys):
    """Of another run, or damaged: told before the run is processed."""
    data = tmp_path / "data"
    shutil.copytree(short / "data/live_data", data)
    arguments = [f"--live_data={data / validate.RUN_ID}", f"--output={tmp_path / 'out'}"]
    truth = np.load(data / f"truth_{validate.RUN_ID}.npy")
    np.save(tmp_path / "truth.npy", truth[:-1])
    assert validate.main([*arguments, f"--truth={tmp_path / 'truth.npy'}"]) == 1
    assert "files of one" in capsys.readouterr().err
    parts = data / f"parts_{validate.RUN_ID}.npz"
    parts.write_bytes(parts.read_bytes()[:-100])
    assert validate.main(arguments) == 1
    assert str(parts) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_that_are_missing(short, tmp_path, capsys):
    """Without parts some numbers are missing, and it is said; settings are in the document, too."""
    data, name = tmp_path / "data", validate.RUN_ID
    shutil.copytree(short / "data/live_data", data)
    for file in (f"parts_{name}.npz", f"simulation_{name}.json", f"config_{name}.json"):
        (data / file).unlink()
    (tmp_path / "out/.work_killed").mkdir(parents=True)
    arguments = [f"--live_data={data / name}", f"--output={tmp_path / 'out'}"]
    assert validate.main([*arguments, "--reconstruction=hits"]) == 0
    text = capsys.readouterr().err
    assert "parts_" in text and ".work_killed" in text
    before = validation_text.read_report(short / "validation.json")
    after = validation_text.read_report(tmp_path / "out/validation.json")
    assert "scatters" in before["numbers"] and "scatters" not in after["numbers"]
    for name in ("s1_efficiency", "s1_area_bias", "events_merged"):
        np.testing.assert_equal(number(after, name), number(before, name))


OPTICS = ("geometry", "inverse_of_reconstruction")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Reports of short runs: of XAMSL, of an LED run, and of XAMS with each model of light."""
    runs = {
        "xamsl": ["--detector=xamsl", "--source=rn222", "--rate=5", "--duration=4"],
        "led": ["--source=led", "--duration=6"],
        **{x: [f"--optics={x}", "--source=kr83m", "--rate=60", "--duration=8"] for x in OPTICS},
    }
    reports = {}
    for name, arguments in runs.items():
        arguments = [*arguments, "--no-progress", "--yields=simple"]
        folder = once(tmp_path_factory, f"validate_{name}", arguments)
        reports[name] = validation_text.read_report(folder / "validation.json")
    return reports


def test_peaks_of_xamsl(runs):
    """Alphas are found; of their S2s, half is below the threshold of 15 ADC counts.

    A photoelectron of these PMTs at their low voltage is 1 ADC count x sample. With 20 it is 6 %.
    """
    report = runs["xamsl"]
    assert report["n_events"] is None and report["n_truth"] > 8
    assert "event_efficiency" not in report["numbers"]
    for kind in ("s1", "s2"):
        assert number(report, f"{kind}_efficiency")[0] > 0.9
    assert abs(number(report, "s1_area_bias")[0]) < 0.02
    assert -0.62 < number(report, "s2_area_bias")[0] < -0.42
    assert "s1_whole" not in report["poor"]


def test_positions_are_biased_in_light_that_the_reconstruction_does_not_know(runs):
    """Rings show it, and the same run with the reconstruction's own inverse has no such bias."""
    biased, own = (max(abs(value) for value in runs[name]["rings"]["bias"][:3]) for name in OPTICS)
    assert own < 0.5 < 1 < biased
    assert not [name for name in runs[OPTICS[1]]["poor"] if name.startswith("ring_")]
    assert [name for name in runs[OPTICS[0]]["poor"] if name.startswith("ring_")]


def test_pairs_of_s1s(runs):
    """Those of short delays are one S1, those of long delays two, and between them without type."""
    table = runs[OPTICS[0]]["kr_delays"]
    assert sum(table["n"]) == runs[OPTICS[0]]["n_truth"] > 300
    shares = {name: np.array(table[name]) / table["n"] for name in ("two", "one", "unknown")}
    assert min(shares["one"][:2]) > 0.9
    assert shares["two"][-1] > 0.9
    assert shares["unknown"][4] > 0.5
    assert "kr_unknown" in runs[OPTICS[0]]["poor"]


def test_gains_of_led_runs(runs):
    assert runs["led"]["n_truth"] > 1_000
    for channel in range(5):
        bias, error = number(runs["led"], f"led_gain_{channel}")
        assert abs(bias) < 5 * error < 0.4


def test_several_sets_of_options_and_rates(tmp_path, capsys):
    """The run of many events that pile up, and one set of options that loses half of the area."""
    halved = [1 / (2 * gain) for gain in (*simulation.DETECTORS["xams"].photoelectron_areas, 1, 1)]
    arguments = [
        *("--yields=simple", "--source=cs137", "--rate=50", "--duration=4", "--no-progress"),
        *("--pile_up", "1000", "--options=usual={}", f"--output={tmp_path}"),
        f"--options=halved={json.dumps({'gain_to_pe_array': halved})}",
    ]
    assert validate.main(arguments) == 0
    assert files(tmp_path) == [
        f"validation_{name}.{suffix}"
        for name in ("halved", "usual")
        for suffix in ("json", "pdf", "png")
    ]
    usual, worse = (
        validation_text.read_report(tmp_path / f"validation_{x}.json") for x in ("usual", "halved")
    )
    text = capsys.readouterr().out
    assert text.index("Options usual") < text.index("Options halved compared with usual")
    # Where the ADC saturates, area is lost although the peak is found, and both are told
    for kind in ("s1", "s2"):
        assert number(usual, f"{kind}_efficiency")[0] > 0.95
        assert number(usual, f"line_{kind}_saturated")[0] > 0.8
        assert number(usual, f"line_{kind}_area_bias")[0] < -0.15
        assert abs(number(usual, f"{kind}_area_bias_unsaturated")[0]) < 0.02
        assert number(usual, f"{kind}_area_bias_saturated")[0] < -0.1
        assert number(usual, f"{kind}_whole")[0] < 0.9
        assert {f"{kind}_whole", f"line_{kind}_area_bias"} <= set(usual["poor"])
    # S2s of short drifts lose most, whatever the lifetime
    assert number(usual, "elife_left")[0] > 0.05
    assert number(usual, "elife_left_of_line")[0] > 0.05
    poor, table = text.split("Poor: ")[1].split("S1s by size")
    assert "area of S2s at 661.7 keV" in poor.split("\n\n")[0]
    assert table.count(" to ") > 10
    bias = number(worse, "s2_area_bias_unsaturated")[0]
    assert bias == pytest.approx(-0.5, abs=0.02)
    assert "s2_area_bias" in worse["poor"]
    # More pile-up at the higher rate, as expected from the window
    low, high = (number(usual, f"pile_up_events_merged_{rate}")[0] for rate in (50, 1000))
    assert low < 0.05 < high
    expected, error = number(usual, "pile_up_events_merged_expected_1000")
    assert abs(high - expected) < 3 * error
    assert "pile_up_events_merged_1000" in worse["numbers"]


def test_truth_of_another_place(made, tmp_path):
    run_dir = made / "data/live_data" / validate.RUN_ID
    elsewhere = tmp_path / "truth.npy"
    elsewhere.write_bytes((run_dir.parent / f"truth_{validate.RUN_ID}.npy").read_bytes())
    assert SimulatedRun.at(run_dir, elsewhere).truth == elsewhere
    with pytest.raises(LiveDataNotFound, match="gone.npy"):
        SimulatedRun.at(run_dir, tmp_path / "gone.npy")


@pytest.mark.slow
def test_stopped(tmp_path, served_scripts):
    """SIGTERM: nothing is left, and no exception is shown."""
    process = subprocess.Popen(
        [served_scripts / "amstrax", "validate", "--duration=3000", "--output=out"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = ""
    while "simulating" not in line and process.poll() is None:
        line = process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "SIGTERM" in text
    assert "Traceback" not in text
    assert not (tmp_path / "out").exists()


def test_as_a_command(capsys):
    for arguments in (["validate", "--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
        assert f"usage: amstrax {arguments[0]}" in capsys.readouterr().out
    code = "import sys, amstrax.commands.{}; print(sorted(sys.modules))"
    for module in ("validate", "demo"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True
        )
        for slow in ("strax", "numpy", "numba", "matplotlib", "scipy"):
            assert f"'{slow}'" not in done.stdout
