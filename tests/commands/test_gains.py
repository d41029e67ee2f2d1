"""`amstrax gains`: from live data of simulated LED runs to a correction file."""

import json
import re
import subprocess
import sys

import pytest

import amstrax
from amstrax import cli, contexts, settings, simulation
from amstrax.commands import gains
from amstrax.corrections import check

RUNS = {"000201": (0.3, 40, 1), "000202": (0.3, 40, 2), "000203": (0.0, 10, 3)}
AREAS = simulation.DETECTORS["xams"].photoelectron_areas


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with live data of two LED runs, and one with the LED off."""
    folder = tmp_path_factory.mktemp("led")
    detector = simulation.DETECTORS["xams"].with_values(led_samples=130)
    for run_id, (occupancy, duration, seed) in RUNS.items():
        simulation.simulate(
            run_id, folder, detector, "led", duration=duration, seed=seed, occupancy=occupancy
        )
    return folder


def arguments(folder, *run_ids, off=(), documents=True):
    """Return the command's arguments for runs in a folder, that are processed where needed."""
    documents = [str(folder / f"rundoc_{run_id}.json") for run_id in (*run_ids, *off)]
    return [
        *run_ids,
        *(["--led_off", *off] if off else []),
        f"--output_folder={folder / 'processed'}",
        f"--live_data_dir={folder}",
        "--testing_rundoc",
        *documents,
        '--context_kwargs={"init_rundb": false}',
        "--no-progress",
    ]


def rows(text):
    """Return (channel, method) -> gain and error, of the table."""
    row = re.compile(r" +(\d+) +(mean|fit) +\d+ +[\d.]+ \+- [\d.]+ +([\d.]+) \+- ([\d.]+)", re.M)
    return {(int(c), m): (float(g), float(e)) for c, m, g, e in row.findall(text)}


@pytest.mark.slow
def test_from_live_data_to_a_correction_file(runs, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "corrections"
    path = folder / "gain_to_pe_array" / "gain_to_pe_array_v3.json"
    plot = tmp_path / "plots" / "gains.png"
    output = [f"--output={path}", "--range=000201-000300", "--channel", "5=0.0178"]
    assert cli.main(["gains", *arguments(runs, "000201"), *output, f"--plot={plot}"]) == 0
    found = rows(capsys.readouterr().out)
    assert sorted({channel for channel, _ in found}) == [0, 1, 2, 3, 4]
    for (channel, _), (gain, error) in found.items():
        assert abs(gain - AREAS[channel]) < 4 * error < 0.15 * gain
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in plot.parent.iterdir()] == ["gains.png"]
    (values,) = json.loads(path.read_text()).values()
    assert len(values) == 6 and values[5] == 0.0178
    for channel in range(5):
        assert values[channel] == pytest.approx(1 / found[channel, "mean"][0], rel=1e-3)

    # A second run, by the fit; the channel without light keeps its value
    output = [f"--write={path}", "--from-run=301", "--to_run=301", "--method=fit"]
    output.append(f"--json={tmp_path / 'new' / 'gains.json'}")
    assert gains.main([*arguments(runs, "000202"), *output]) == 0
    found = rows(capsys.readouterr().out)
    content = json.loads(path.read_text())
    assert list(content) == ["000201-000300", "000301"]
    written = json.loads((tmp_path / "new" / "gains.json").read_text())
    assert len(written) == len(found) == 10
    assert {*written[0]} == {"name", "value", "lower", "upper", "unit", "method", "runs", "options"}
    row = next(r for r in written if (r["name"], r["method"]) == ("gain_to_pe_array[2]", "fit"))
    assert row["value"] == pytest.approx(content["000301"][2], rel=1e-5)
    assert row["lower"] < row["value"] < row["upper"] and row["runs"] == ["000202"]
    assert row["options"]["method"] == "fit"
    assert content["000201-000300"] == values
    assert content["000301"][5] == 0.0178
    assert content["000301"][2] == pytest.approx(1 / found[2, "fit"][0], rel=1e-3)

    # What `amstrax corrections` says of it, and what plugins get
    report = check.check_folder(folder)
    assert report.files == 1 and report.problems == []
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(folder))
    assert amstrax.get_correction(path.name) == content

    # And the table of values is not touched by what does not fit in
    before = path.read_text()
    output = [f"--output={path}", "--range=000250-000400"]
    assert gains.main([*arguments(runs, "000202"), *output]) == 1
    assert path.read_text() == before


def test_stored_runs_together_and_an_led_off_run(runs, capsys):
    """What is stored needs neither live data nor run documents."""
    made = arguments(runs, "000201", "000202", off=["000203"])
    assert gains.main(made) == 0
    first = capsys.readouterr().out
    stored = [x for x in made if "testing_rundoc" not in x and "live_data" not in x]
    stored = [x for x in stored if "rundoc_" not in x]
    assert gains.main(stored) == 0
    assert capsys.readouterr().out == first
    found = rows(first)
    for (channel, _), (gain, error) in found.items():
        assert abs(gain - AREAS[channel]) < 4 * error
    assert " 15998 " in first  # pulses of both


def test_led_off_run_alone_has_no_gain(runs, capsys):
    assert gains.main(arguments(runs, "000203")) == 1
    said = capsys.readouterr().err
    assert "no channel of 000203 has a gain; channel 0: " in said
    assert "too few" in said or "no light" in said


def test_channel_without_gain_is_not_written(runs, tmp_path, capsys, monkeypatch):
    """Unless it is given a value."""
    path = tmp_path / "gain_to_pe_array_v1.json"
    load = gains.load

    def dark_channel(args, run_ids, stop):
        pulses, windows = load(args, run_ids, stop)
        # Of channel 2 hardly anything is left
        return pulses[(pulses["channel"] != 2) | (pulses["time"] % 997 == 0)], windows

    monkeypatch.setattr(gains, "load", dark_channel)
    given = [*arguments(runs, "000201"), f"--output={path}", "--range=1-2"]
    assert gains.main(given) == 1
    assert "--channel 2=VALUE" in capsys.readouterr().err and not path.exists()
    assert gains.main([*given, "--channel", "2=0.007"]) == 0
    (values,) = json.loads(path.read_text()).values()
    assert values[2] == 0.007 and len(values) == 5


def test_gap_between_channels_needs_a_value(runs, tmp_path, capsys):
    path = tmp_path / "gain_to_pe_array_v1.json"
    given = [*arguments(runs, "000201"), f"--output={path}", "--range=1-2", "--channel", "6=0.0006"]
    assert gains.main(given) == 2
    assert "--channel 5=VALUE" in capsys.readouterr().err and not path.exists()
    assert gains.main([*given, "--channel", "5=0.0178"]) == 0
    (values,) = json.loads(path.read_text()).values()
    assert values[5:] == [0.0178, 0.0006]


def test_runs_with_other_windows(runs):
    """They were made with the windows that are stored with them."""
    given = arguments(runs, "000201", "000202")
    options = '--config_kwargs={"led_window": [85, 115]}'
    assert gains.main([*given, options]) == 0
    st = contexts.xams_led(output_folder=runs / "processed", init_rundb=False)
    key = st.key_for("000201", "led_calibration")
    st.set_config({"led_window": (85, 115)})
    assert st.is_stored("000201", "led_calibration")
    assert st.key_for("000201", "led_calibration") != key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=gain_to_pe_array_v1.json"], "--write goes with"),
        (["--range=1-2"], "--write goes with"),
        (["--write=gain_to_pe_array_v1.json", "--from-run=1"], "give --from-run and --to-run"),
        (["--channel", "five=3"], "write N=VALUE"),
        (["--channel", "5=-3"], "values are above 0"),
        (["--testing_rundoc", "a.json", "b.json"], "1 runs need as many run documents"),
        (["--method", "median"], "invalid choice"),
        (["201"], "run 000201 is given twice"),
        (["--led_off", "201"], "run 000201 is given twice"),
    ],
    ids=["output", "range", "to_run", "channel", "value", "documents", "method", "twice", "off"],
)
def test_wrong_options(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        gains.parse_args(["000201", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=gains.json", "--range=1-2"], "must be called gain_to_pe_array_VERSION.json"),
        (["--output=gain_to_pe_array_v1.json", "--range=2-1"], "ends before it begins"),
        (["--output=gain_to_pe_array_v1.json", "--range=1-*"], "open end"),
    ],
    ids=["name", "order", "open"],
)
def test_what_is_wrong_is_said_before_the_work(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert gains.main(["000201", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_run(tmp_path, capsys):
    given = ["000999", f"--output_folder={tmp_path}", '--context_kwargs={"init_rundb": false}']
    assert gains.main(given) == 1
    assert "run 000999" in capsys.readouterr().err


def test_a_source_run_is_refused(runs, tmp_path, capsys):
    path = tmp_path / "rundoc.json"
    document = json.loads((runs / "rundoc_000201.json").read_text())
    its = {**document.get("xams_bookkeeping", {}), "run_class": "science"}
    path.write_text(json.dumps(document | {"mode": "na22", "xams_bookkeeping": its}))
    words = arguments(runs, "000201")
    words[words.index("--testing_rundoc") + 1] = str(path)
    assert gains.main(words) == 1
    said = capsys.readouterr()
    assert "ERROR run 000201 is no LED run by its document, so context xams_led is" in said.err
    assert "give --force to use it" in said.err and not rows(said.out)
    assert gains.main([*words, "--force"]) == 0
    assert rows(capsys.readouterr().out)


@pytest.mark.smoke
def test_help():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "amstrax.commands.gains", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "--led_off" in done.stdout
    slow = {"numpy", "strax", "scipy", "matplotlib", "iminuit"}
    assert not slow & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "gains" in cli.usage()
    assert settings.CONTEXT_DETECTORS[gains.CONTEXT] == "xams"
