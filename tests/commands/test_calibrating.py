"""`amstrax elife` and `amstrax drift`: from live data of simulated runs to correction files."""

import json
import shutil

import pytest

from amstrax import cli, contexts, simulation
from amstrax.commands import calibrating, drift, elife
from amstrax.corrections import check
from amstrax.exceptions import UsageError

RUNS = ("000301", "000302")
LIFETIME = 40_000.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with live data of two runs with electrons of 10 keV at all depths."""
    folder = tmp_path_factory.mktemp("line")
    detector = simulation.DETECTORS["xams"].with_values(electron_lifetime=LIFETIME)
    for seed, run_id in enumerate(RUNS):
        simulation.simulate(
            run_id, folder, detector, "flat", 100.0, 4.0, seed, energy_range=(10.0, 10.1)
        )
    return folder


def arguments(folder, *run_ids):
    documents = [str(folder / f"rundoc_{run_id}.json") for run_id in run_ids]
    return [
        *run_ids,
        f"--output_folder={folder / 'processed'}",
        f"--live_data_dir={folder}",
        *("--testing_rundoc", *documents),
        '--context_kwargs={"init_rundb": false}',
        *("--bootstrap", "20", "--no-progress"),
    ]


def test_lifetime(runs, tmp_path, capsys):
    path = tmp_path / "corrections" / "elife" / "elife_v5.json"
    options = [f"--write={path}", "--from-run=301", "--to-run=302", "--per_run"]
    options += [f"--json={tmp_path / 'elife.json'}", f"--plot={tmp_path / 'elife.png'}"]
    assert cli.main(["elife", *arguments(runs, *RUNS), *options]) == 0
    rows = json.loads((tmp_path / "elife.json").read_text())
    assert [row["runs"] for row in rows] == [[*RUNS], [*RUNS], [RUNS[0]], [RUNS[1]]]
    assert {row["name"] for row in rows} == {"elife"} and rows[0]["unit"] == "ns"
    by_likelihood, by_bootstrap = rows[:2]
    assert by_likelihood["method"].endswith("likelihood")
    assert by_bootstrap["method"].endswith("bootstrap")
    for row in rows:
        error = (row["upper"] - row["lower"]) / 2
        assert abs(row["value"] - LIFETIME) < 4 * error < 0.5 * LIFETIME
    assert json.loads(path.read_text()) == {
        "000301-000302": pytest.approx(by_likelihood["value"], rel=1e-5)
    }
    assert check.check_folder(path.parents[1]).problems == []
    assert (tmp_path / "elife.png").read_bytes().startswith(b"\x89PNG")
    assert "lower limit" in capsys.readouterr().out
    # Nothing is overwritten, and nothing is measured then
    assert elife.main([*arguments(runs, *RUNS), f"--write={path}", "--range=302"]) == 1
    assert "has a value for the range '000301-000302' already" in capsys.readouterr().err


def test_lifetime_of_too_few_events(runs, capsys):
    assert elife.main([*arguments(runs, RUNS[0]), "--s2_range", "1", "20"]) == 1
    assert "are too few" in capsys.readouterr().err


def test_infinite_lifetime_is_not_written(runs, tmp_path, capsys, monkeypatch):
    """It is shown, with its lower limit."""
    load = calibrating.load

    def corrected(*args):
        loaded = load(*args)
        for events in loaded.values():
            events["s2_area"] *= 1.02 ** (events["drift_time"] / 1000) * 1.01 ** (
                events["drift_time"] / 1000
            )
        return loaded

    monkeypatch.setattr(calibrating, "load", corrected)
    path = tmp_path / "elife_v5.json"
    given = [*arguments(runs, *RUNS), f"--json={tmp_path / 'a.json'}"]
    status = elife.main([*given, f"--write={path}", "--range=301"])
    said = capsys.readouterr().err
    assert status == 1 and not path.exists()
    assert "without an upper end, and was not" in said or "S2s rise" in said


def test_drift(runs, tmp_path, capsys):
    folder = tmp_path / "corrections"
    paths = [folder / name / f"{name}_v5.json" for name in drift.OPTIONS]
    options = [f"--write={path}" for path in paths] + ["--from_run=301", "--to_run=400"]
    options += [f"--json={tmp_path / 'drift.json'}", f"--plot={tmp_path / 'drift.png'}"]
    assert drift.main([*arguments(runs, *RUNS), *options]) == 0
    rows = {
        (row["name"], row["method"].rpartition(" ")[2]): row
        for row in json.loads((tmp_path / "drift.json").read_text())
    }
    truth = simulation.DETECTORS["xams"]
    for name, true in (("gate", truth.drift_time_gate), ("cathode", truth.drift_time_cathode)):
        row = rows[f"drift_time_{name}", "likelihood"]
        error = (row["upper"] - row["lower"]) / 2
        assert abs(row["value"] - true) < 4 * error + 50 < 700
    velocity = rows["electron_drift_velocity", "edges"]
    assert velocity["value"] == pytest.approx(truth.drift_velocity, rel=0.02)
    diffusion = rows["diffusion_longitudinal", "time"]
    assert diffusion["value"] == pytest.approx(26, rel=0.25)
    for path, name in zip(paths, drift.OPTIONS, strict=True):
        (value,) = json.loads(path.read_text()).values()
        assert value == pytest.approx(
            next(r["value"] for k, r in rows.items() if k[0] == name), rel=1e-5
        )
    assert check.check_folder(folder).problems == []
    assert "set max_drift_length to" in capsys.readouterr().err


def test_written_values_are_used(runs, tmp_path, monkeypatch):
    """By a version of the corrections that names the file."""
    folder = tmp_path / "corrections"
    path = folder / "elife" / "elife_v5.json"
    new = calibrating.new_entry(path, "000301-000302", ("elife",))
    assert "written to" in calibrating.write_entry(new, 41_234.5678)
    (folder / "_global").mkdir()
    (folder / "_global" / "_global_v5.json").write_text('{"elife": "elife_v5.json"}')
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(folder))
    st = contexts.xams(output_folder=tmp_path / "data", init_rundb=False, corrections_version="v5")
    assert st.get_single_plugin("000301", "corrected_areas").elife == 41_234.6


def test_other_reconstruction(runs):
    """Its events are made with their own lineage."""
    assert elife.main([*arguments(runs, *RUNS), "--reconstruction=improved"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--write=elife.json", "--range=1"], "must be called elife_VERSION.json"),
        (["--write=elife_v1.json", "--range=2-1"], "ends before it begins"),
    ],
)
def test_wrong_files(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert elife.main(["000301", *options]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("ends", [("39500", "5000"), ("nan", "5000")])
def test_range_in_wrong_order(ends, capsys):
    with pytest.raises(SystemExit):
        drift.parse_args(["000301", "--guess", *ends])
    assert f"--guess {ends[0]} 5000: give the lower end first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["gains", "elife", "drift", "se-gain", "maps", "energy", "alphas", "trends"]
)
@pytest.mark.parametrize("name", ["plot.xyz", "plot", ".png", "folder.png"])
def test_a_plot_that_cannot_be_drawn_is_said_first(command, name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    more = ["--line", "20=7"] if command == "energy" else []
    with pytest.raises(SystemExit, match="2"):
        cli.main([command, "7", *more, f"--plot={name}"])
    assert f"--plot {name}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_file_that_is_given_twice(tmp_path, capsys):
    write = f"--write={tmp_path / 'elife_v1.json'}"
    assert elife.main(["000301", write, write, "--range=301"]) == 2
    assert "is given twice" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_document_of_another_run(runs, capsys):
    words = arguments(runs, RUNS[0])
    words[words.index("--testing_rundoc") + 1] = str(runs / f"rundoc_{RUNS[1]}.json")
    assert drift.main(words) == 2
    assert "the document of run 302, not of 000301" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("detectors", ["xamsl"], "ERROR run 000301 is of xamsl, and context xams is of xams"),
        ("mode", "led_1", "ERROR run 000301 is an LED run by its document, so context xams is"),
    ],
)
def test_run_of_another_kind(field, value, message, runs, tmp_path, capsys):
    path = tmp_path / "rundoc.json"
    document = json.loads((runs / f"rundoc_{RUNS[0]}.json").read_text())
    path.write_text(json.dumps(document | {field: value}))
    words = arguments(runs, RUNS[0])
    words[words.index("--testing_rundoc") + 1] = str(path)
    assert elife.main([*words, "--s2_range", "1", "20"]) == 1
    assert message in capsys.readouterr().err
    if field == "mode":
        elife.main([*words, "--s2_range", "1", "20", "--force"])
        said = capsys.readouterr().err
        assert "WARNING run 000301 is an LED run by its document" in said


def test_live_data_that_is_missing_is_said_at_once(runs, tmp_path, capsys):
    shutil.copytree(runs / RUNS[0], tmp_path / RUNS[0])
    shutil.rmtree(tmp_path / RUNS[0] / "THE_END")
    shutil.copy(runs / f"rundoc_{RUNS[0]}.json", tmp_path)
    assert elife.main(arguments(tmp_path, RUNS[0])) == 1
    assert "after 1.0 s, and the run has not ended there" in capsys.readouterr().err


def test_name_of_a_file_with_several_options(tmp_path):
    path = tmp_path / "electron_drift_velocity_v1.json"
    assert calibrating.new_entry(path, "1-2", drift.OPTIONS).option == "electron_drift_velocity"
    with pytest.raises(UsageError, match="drift_time_gate_VERSION.json or"):
        calibrating.new_entry(tmp_path / "elife_v1.json", "1-2", drift.OPTIONS)
