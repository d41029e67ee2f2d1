"""`amstrax energy`, `maps` and `se-gain`: from live data of simulated lines to correction files."""

import json

import numpy as np
import pytest

from amstrax import cli, contexts, simulation
from amstrax.corrections import check

ENERGIES = {"000320": 20, "000360": 60}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Folder with live data of two runs, of 20 keV and 60 keV, that saturate nothing."""
    folder = tmp_path_factory.mktemp("lines")
    for run_id, energy in ENERGIES.items():
        simulation.simulate(
            run_id,
            folder,
            source="flat",
            energy_range=(energy, energy),
            rate=80,
            duration=5,
            seed=energy,
            optics="inverse_of_reconstruction",
        )
    return folder


def arguments(folder, *run_ids):
    return [
        *run_ids,
        f"--output_folder={folder / 'processed'}",
        f"--live_data_dir={folder}",
        "--testing_rundoc",
        *(str(folder / f"rundoc_{run_id}.json") for run_id in run_ids),
        '--context_kwargs={"init_rundb": false}',
        "--no-progress",
    ]


def results(path):
    rows = json.loads(path.read_text())
    assert all(row["runs"] and row["options"] and row["unit"] for row in rows)
    return {(row["name"], row["method"]): row for row in rows}


def test_energy(lines, tmp_path, capsys):
    folder, found, plot = tmp_path / "corrections", tmp_path / "e.json", tmp_path / "e.png"
    given = [*arguments(lines, *ENERGIES), "--w", "13.558", "--fano", "1.7", "--s2_noise", "5"]
    given += ["--line", "20=000320", "--line", "60=000360", f"--json={found}", f"--plot={plot}"]
    files = {name: folder / name / f"{name}_v1.json" for name in ("g1", "g2")}
    writing = [f"--write={path}" for path in files.values()]
    for path in files.values():
        path.parent.mkdir(parents=True)
    assert cli.main(["energy", *given, *writing, "--from-run", "000300", "--to-run", "000399"]) == 0
    assert "correlation of g1 and g2 -0.9" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    rows = results(found)
    # g1 and g2 of the simulation, less what the lab's hits lose
    for method in ("Doke plot", "ellipse"):
        for name, true in (("g1", 0.1), ("g2", 9.5)):
            row = rows[name, method]
            error = (row["upper"] - row["lower"]) / 2
            assert abs(row["value"] - 0.98 * true) < 4 * error + 0.02 * true < true
    assert rows["mean 60 keV", "Gaussian fit"]["value"] == pytest.approx(60, rel=0.02)
    assert 0.02 < rows["resolution 60 keV", "Gaussian fit"]["value"] < 0.1
    assert check.check_folder(folder).problems == []
    (value,) = json.loads(files["g1"].read_text()).values()
    assert value == pytest.approx(rows["g1", "Doke plot"]["value"], rel=1e-5)
    # Runs that have a value keep it
    before = files["g2"].read_text()
    assert cli.main(["energy", *given, *writing, "--range", "000390-000400"]) == 1
    assert files["g2"].read_text() == before


def test_energy_without_result(lines, capsys):
    given = ["energy", *arguments(lines, "000360"), "--line", "60"]
    assert cli.main([*given, "--method", "doke"]) == 1
    assert "1 line does not determine g1 and g2" in capsys.readouterr().err
    assert cli.main([*given[:-1], "60=000360:1,2,1,2"]) == 1
    assert (
        "0 events of 60 keV with cS1 and cS2 in the ranges are too few" in capsys.readouterr().err
    )
    assert cli.main([*given, "--line", "61", "--method", "doke"]) == 2
    assert "the same population as 60 keV" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("energy", "--line", "60"), ("se-gain",)])
def test_areas_that_are_not_in_pe(lines, tmp_path, capsys, command):
    name, *options = command
    options += [
        f"--output_folder={tmp_path}",
        '--context_kwargs={"init_rundb": false, "config": {"gain_to_pe_array": null}}',
    ]
    assert cli.main([name, *arguments(lines, "000360"), *options]) == 2
    assert "of run 000360 are in ADC counts x samples" in capsys.readouterr().err


def test_maps(lines, tmp_path, capsys):
    """The map of the run flattens the S1s of its line, which the context corrects with it."""
    folder, plot = tmp_path / "corrections", tmp_path / "m.png"
    files = {name: folder / name / f"{name}_v1.json" for name in ("s1_map", "s2_map")}
    for path in files.values():
        path.parent.mkdir(parents=True)
    given = [*arguments(lines, "000360"), "--r_bins=2", "--z_bins=5", "--xy_bins=3"]
    given += [f"--json={tmp_path / 'm.json'}", f"--plot={plot}", "--range=000300-000399"]
    assert cli.main(["maps", *given, *(f"--write={path}" for path in files.values())]) == 0
    assert " of 10 bins merged, 0 without events" in capsys.readouterr().out
    assert plot.exists() and len(json.loads((tmp_path / "m.json").read_text())) == 19
    assert check.check_folder(folder).problems == []
    config = {
        name: next(iter(json.loads(path.read_text()).values())) for name, path in files.items()
    }
    options = dict(output_folder=lines / "processed", init_rundb=False)
    st = contexts.xams(**options, config=run_options(lines))
    assert "s2_map" not in st.key_for("000360", "corrected_areas").lineage["corrected_areas"][2]
    events = st.get_array("000360", "event_info", progress_bar=False)
    st = contexts.xams(**options, config=run_options(lines) | config)
    corrected = st.get_array("000360", "event_info", progress_bar=False)
    key = st.key_for("000360", "corrected_areas").lineage["corrected_areas"][2]
    assert key["s2_map"] == config["s2_map"]
    deep = events["z"] < np.median(events["z"])
    ratio = np.median(corrected["cs1"][deep]) / np.median(corrected["cs1"][~deep])
    uncorrected = np.median(events["s1_area"][deep]) / np.median(events["s1_area"][~deep])
    assert abs(ratio - 1) < 0.03 < uncorrected - 1
    assert cli.main(["maps", *given[:-3], f"--config_kwargs={json.dumps(config)}"]) == 2
    assert "are corrected with an s2_map already" in capsys.readouterr().err


def run_options(folder):
    return simulation.SimulatedRun.at(folder / "000360").options()


def test_se_gain(lines, tmp_path, capsys):
    path, found, plot = tmp_path / "se_gain_v1.json", tmp_path / "s.json", tmp_path / "s.png"
    given = ["se-gain", *arguments(lines, *ENERGIES), f"--json={found}", f"--plot={plot}"]
    given += ["--g2", "9.5", "0.1", f"--write={path}", "--range=000300-000399"]
    assert cli.main(given) == 0
    rows = results(found)
    gain, extraction = rows["se_gain", "fit"], rows["extraction_efficiency", "g2 / se_gain"]
    assert abs(gain["value"] - 10) < 4 * (gain["upper"] - gain["lower"]) / 2 < 2
    assert extraction["value"] == pytest.approx(9.5 / gain["value"])
    assert list(json.loads(path.read_text())) == ["000300-000399"] and plot.exists()
    capsys.readouterr()
    late = [word for word in given if not word.startswith(("--write", "--range"))]
    assert cli.main([*late, "--min_delay=1", "--max_delay=1.1"]) == 1
    assert "are too few for single electrons" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("energy", [], "required: --line"),
        ("energy", ["--line", "-3"], "write KEV, KEV=RUN_ID"),
        ("energy", ["--line", "3=7"], "the run is not among the runs"),
        ("energy", ["--line", "3", "--w", "0"], "--w 0"),
        ("energy", ["--line", "3", "--ellipse_line", "4"], "it is not one of --line"),
        ("maps", ["--map", "s3_map"], "invalid choice"),
        ("maps", ["--min_events", "1"], "at least 2"),
        ("se-gain", ["--min_delay", "9", "--max_delay", "3"], "below --max_delay"),
        ("se-gain", ["--g2", "0", "1"], "above 0"),
    ],
)
def test_wrong_options(command, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "000320", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
