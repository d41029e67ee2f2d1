"""Each message that the page on troubleshooting quotes is one that the code gives."""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import need_all

import amstrax
from amstrax import cli, contexts

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/source/troubleshooting.rst").read_text(encoding="utf-8")
QUOTES = re.findall(r"^   \* - ``(.+)``$", PAGE, re.M)
#: A run of nothing but its number
OTHER = "100101"


def context(demo, **config):
    """Return the context of the demo's run."""
    options = amstrax.simulation.load_options(demo / "live_data/config_100100.json")
    return contexts.xams(demo / "processed", init_rundb=False, config=options | config)


def load(demo, data_type="event_info", run_id="100100", **arguments):
    """Load data of the demo's run."""
    return context(demo).get_array(run_id, data_type, progress_bar=False, **arguments)


def without_raw_records(demo):
    """Load data that needs the raw records, which are gone."""
    for folder in (demo / "processed").glob("*-raw_records*"):
        shutil.rmtree(folder)
    load(demo, "hits", config={"baseline_samples": 30})


def prepare(demo, folder="processed", live="live_data"):
    """Set up a context for the demo's live data."""
    document = json.loads((demo / "live_data/rundoc_100100.json").read_text())
    config = {"live_data_dir": str(demo / live)}
    st = contexts.xams(demo / folder, init_rundb=False, config=config)
    return contexts.context_for_daq_reader(st, "100100", run_doc=document)


def prepare_another(demo):
    """Use a context for two runs."""
    st = contexts.xams(demo / "new", init_rundb=False, config={"daq_input_dir": f"live/{OTHER}"})
    contexts.context_for_daq_reader(st, "100100", run_doc={})


def process(demo, *arguments, run_id="100100"):
    """Start ``amstraxer``."""
    targets = () if "--target" in arguments else ("--target", "event_info")
    return cli.main(["process", run_id, *targets, "--output_folder", str(demo / "new"), *arguments])


def process_without_folder(demo):
    """Process a run whose document names no folder."""
    document = json.loads((demo / "live_data/rundoc_100100.json").read_text())
    document["data"], document["daq_config"]["strax_output_path"] = [], None
    process(demo, "--testing_rundoc", json.dumps(document))


def install(demo):
    """Install with no Python, in a folder that has only what this needs."""
    need_all("make")
    for name in ("Makefile", "setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, demo / name)
    run(["make", "-C", str(demo), "install", "PYTHON="])


def run(command, **environment):
    """Run a command, and print what it says."""
    unset = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "PYTHONPATH", "XENON_CONFIG")
    given = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        command, env=given | environment, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)


#: Beginning of the quoted message -> what provokes it, given a copy of the demo
PROVOKE = {
    "make install: no working Python": install,
    "No module named 'amstrax'": lambda demo: run(
        [sys.executable, "-I", "-S", "-c", "import amstrax"], HOME=str(demo)
    ),
    "amstrax: no command": lambda demo: cli.main(["procces"]),
    "Could not load a configuration": lambda demo: run(
        [sys.executable, "-c", "import utilix"], HOME=str(demo)
    ),
    "this context does not make": lambda demo: load(demo, "event_inf"),
    "no data of run": lambda demo: load(demo, run_id=OTHER),
    "no ... of run": without_raw_records,
    "run id": lambda demo: load(demo, run_id=100100),
    "selection '...': no": lambda demo: load(demo, selection="s2area > 3"),
    "selection '...': write": lambda demo: load(demo, selection="z < 0 and r < 20"),
    "keep_columns": lambda demo: load(demo, keep_columns=("time", "s2area")),
    "no plugin of this context": lambda demo: load(demo, config={"s1_max_widht": 60}),
    "a context has no": lambda demo: context(demo).get_dataframe,
    "Cannot automerge": lambda demo: load(demo, ["event_info", "peak_basics"]),
    "Invalid time range": lambda demo: load(demo, time_range=(0, 10)),
    "No run-level metadata": lambda demo: context(demo).run_metadata("100100"),
    "... is meant for": lambda demo: context(demo).plot_records("100100"),
    "... is gone since": lambda demo: amstrax.EnergyEstimates,
    "--target": lambda demo: process(demo, "--target", "event_inf"),
    "--config_kwargs": lambda demo: process(demo, "--config_kwargs", '{"elive": 3}'),
    "Expecting property name": lambda demo: process(demo, "--config_kwargs", "{elife: 3}"),
    "run ... is not in": lambda demo: process(demo, run_id=OTHER),
    "no live data of": lambda demo: prepare(demo, "new", "nowhere"),
    "the folder of live data": process_without_folder,
    "... is stored already": prepare,
    "this context was set up": prepare_another,
    "there is no version": lambda demo: contexts.xams(corrections_version="ONLINE"),
    "... holds a demo": lambda demo: cli.main(["demo", "--output", str(demo), "--duration", "7"]),
    "... has other content": lambda demo: cli.main(["demo", "--output", str(demo / "live_data")]),
    "... would be over": lambda demo: cli.main(
        ["simulate", "100100", "--output", str(demo / "live_data")]
    ),
}


def test_each_quote_is_provoked_by_one_entry():
    starts = [[start for start in PROVOKE if quote.startswith(start)] for quote in QUOTES]
    assert [len(found) for found in starts] == [1] * len(QUOTES), QUOTES
    assert sorted(start for [start] in starts) == sorted(PROVOKE)


@pytest.fixture
def demo(demo_run, tmp_path):
    """A copy of the run of the demo."""
    return shutil.copytree(demo_run, tmp_path / "amstrax_demo")


@pytest.mark.parametrize("quote", QUOTES)
def test_message_is_given(quote, demo, monkeypatch, capfd, caplog):
    monkeypatch.chdir(demo.parent)
    # Commands of other tests have set the level of a command
    caplog.set_level(logging.WARNING, "strax")
    [provoke] = [PROVOKE[start] for start in PROVOKE if quote.startswith(start)]
    said = []
    with contextlib.suppress(SystemExit):
        try:
            provoke(demo)
        except Exception as error:
            said.append(str(error))
    text = " ".join([*said, *capfd.readouterr(), caplog.text])
    # What stands for anything is not empty, and the pieces come in this order
    pieces = [re.escape(piece) for piece in quote.split("...")]
    assert re.search(".+?".join(pieces), text, re.S), text[-2000:]
