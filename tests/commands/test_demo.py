"""The demo: from nothing to plots of events."""

import json
import os
import re
import subprocess

import matplotlib.image
import numpy as np
import pytest
from make_jobs import made_once

from amstrax import cli, contexts
from amstrax.commands import demo

DURATION = "--duration=5"
PLOTS = ["drift_time", "event_display", "positions", "s1_s2", "waveforms"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, served_scripts):
    """Folder of a demo, and what it printed: started as a command, in a folder of its own."""

    def make(folder):
        (folder / "text").write_text(run_demo(folder, served_scripts))

    folder = made_once(tmp_path_factory, "demo_command", make)
    return folder / "amstrax_demo", (folder / "text").read_text()


def run_demo(folder, scripts):
    done = subprocess.run(
        [scripts / "amstrax", "demo", DURATION],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"AMSTRAX_CONFIG": os.devnull, "MPLBACKEND": "agg"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_is_made(made):
    folder, text = made
    st = contexts.xams(
        output_folder=folder / "processed",
        init_rundb=False,
        config=json.loads((folder / f"live_data/config_{demo.RUN_ID}.json").read_text()),
    )
    events = st.get_array(demo.RUN_ID, "event_info", progress_bar=False)
    assert len(events) > 50
    # Americium-241: nearly all events are of the line
    assert np.isfinite(events["drift_time"]).mean() > 0.9
    rows = re.findall(r"^(\w+) +(\d+) +([\d.]+)  (\S+)$", text, re.M)
    assert {"raw_records", "records", "peaks", "event_info"} <= {row[0] for row in rows}
    for data_type, n, megabytes, name in rows:
        files = list((folder / "processed" / name).iterdir())
        assert sum(file.stat().st_size for file in files) / 1e6 == pytest.approx(
            float(megabytes), abs=0.006
        )
        if data_type in ("event_info", "peaks", "records"):
            assert len(st.get_array(demo.RUN_ID, data_type, progress_bar=False)) == int(n)


def test_plots(made):
    folder, text = made
    assert sorted(path.name for path in (folder / "plots").iterdir()) == [
        f"{name}.png" for name in PLOTS
    ]
    for name in PLOTS:
        path = folder / "plots" / f"{name}.png"
        assert str(path) in text
        picture = matplotlib.image.imread(path)
        assert picture.shape[0] > 400 and picture.shape[1] > 400
        # Something is drawn, and not in grey alone
        red, green, blue = np.moveaxis(picture[:, :, :3], 2, 0)
        assert (np.ptp([red, green, blue], axis=0) > 0.3).mean() > 1e-3


@pytest.mark.slow
def test_what_it_says_to_type_next_works(made, served_scripts, tmp_path, monkeypatch, capsys):
    folder, text = made
    code = re.search(r"^    import amstrax\n.*?(?=^\S)", text, re.M | re.S)[0]
    code = "\n".join(line[4:] for line in code.splitlines())
    (tmp_path / "typed.py").write_text(code)
    done = subprocess.run(
        [served_scripts / "python", "typed.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "drift_time" in done.stdout
    assert matplotlib.image.imread(tmp_path / "mine.png").shape[0] > 300
    command = re.search(r"^    (\S+/amstrax) (validate .*)$", text, re.M)
    monkeypatch.chdir(tmp_path)
    assert cli.main(command[2].split()) == 0
    assert "S2s above 200 PE whose largest peak is an S2" in capsys.readouterr().out
    assert (tmp_path / "validation/validation.png").exists()


@pytest.mark.slow
def test_the_dashboard_that_it_names_works(made, served_scripts, tmp_path):
    _, text = made
    command = re.search(
        r"^    AMSTRAX_RUNDB_PATH=(\S+) \S+/amstrax (dashboard .*\\\n.*)$", text, re.M
    )
    done = subprocess.run(
        [served_scripts / "amstrax", *command[2].replace("\\\n", "").split(), "--check"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"AMSTRAX_RUNDB_PATH": command[1]},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "run: 200 OK" in done.stdout


@pytest.mark.slow
def test_a_second_time_nothing_is_made_again(made, served_scripts):
    folder, text = made
    data = [p for name in ("live_data", "processed") for p in (folder / name).rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in data if path.is_file()}
    assert run_demo(folder.parent, served_scripts) == text
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_started_again_it_goes_on(tmp_path, monkeypatch, capsys):
    """Stopped while plots were drawn: what was processed is made anew, and then it is complete."""
    arguments = ["--duration=2", f"--output={tmp_path / 'demo'}", "--no-progress"]

    def stop(*_arguments, **_options):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(demo.base, "save_figure", stop)
        assert demo.main(arguments) == 1
    assert "no space left" in capsys.readouterr().err
    assert not json.loads((tmp_path / "demo/demo.json").read_text())["complete"]
    rundoc = tmp_path / "demo/live_data" / f"rundoc_{demo.RUN_ID}.json"
    before = rundoc.stat().st_mtime_ns
    assert demo.main(arguments) == 0
    assert rundoc.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "demo/demo.json").read_text())["complete"]
    assert "event_display.png" in capsys.readouterr().out
    # Another demo is not put in its place, unless that is asked for
    other = ["--duration=1", *arguments[1:]]
    assert demo.main(other) == 1
    assert "--force" in capsys.readouterr().err
    assert rundoc.stat().st_mtime_ns == before
    assert demo.main([*other, "--force"]) == 0
    assert rundoc.stat().st_mtime_ns != before
    assert json.loads((tmp_path / "demo/demo.json").read_text())["run"]["duration"] == 1


@pytest.mark.parametrize("content", ["thesis.txt", "demo.json"])
def test_other_folders_are_left_alone(content, tmp_path, capsys):
    (tmp_path / content).write_text("[]")
    assert demo.main([DURATION, f"--output={tmp_path}", "--force"]) == 1
    assert "--output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [content]
    assert (tmp_path / content).read_text() == "[]"


def test_a_run_without_complete_events(tmp_path, caplog):
    """So short that nothing happens in it: plots say so."""
    assert demo.main(["--duration=0.001", f"--output={tmp_path / 'demo'}"]) == 0
    names = sorted(path.name for path in (tmp_path / "demo/plots").iterdir())
    assert names == ["drift_time.png", "positions.png", "s1_s2.png"]
