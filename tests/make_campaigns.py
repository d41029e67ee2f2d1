"""A lab with runs for campaigns, that are copies of one simulated run, and what to do with it."""

import contextlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from bson import json_util
from make_jobs import SHORT

from amstrax import contexts
from amstrax.rundb import documents, get_mongo_collection, transfer

TARGET = "raw_records"


class Lab:
    """Live data and documents of runs 1, 2, ... in a folder, and the run database of the settings.

    Parameters
    ----------
    folder
        Folder for it all.
    live
        Folder with the live data of run `SHORT`, which the runs are copies of.
    """

    def __init__(self, folder: Path, live: Path):
        self.folder, self._source = folder, live
        self.live, self.processed = folder / "live", folder / "processed"
        for place in (self.live, self.processed):
            place.mkdir()
        self._started: list[subprocess.Popen] = []

    @property
    def runs(self):
        """Collection of run documents."""
        return get_mongo_collection("xams")

    def add_run(self, number: int, **fields) -> str:
        """Add a run, with other values for some fields of its document, and return its name."""
        name = f"{number:06d}"
        (self.live / name).symlink_to(self._source / SHORT)
        document = json.loads((self._source / f"rundoc_{SHORT}.json").read_text())
        document |= {"number": number, "name": name}
        document.pop("_id", None)
        place = {"type": "live", "host": documents.this_host(), "location": str(self.live)}
        document["data"] = [place]
        transfer.add_run(self.runs, json_util.loads(json.dumps(document)) | fields)
        return name

    def document(self, number: int) -> dict:
        """Return the document of a run."""
        return documents.find_run(self.runs, number)

    def status(self, number: int) -> str:
        """Return the status of a run."""
        return documents.status_of(self.document(number)).status

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start ``amstrax campaign`` as a process of its own."""
        with self.log.open("a") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "amstrax.cli", "campaign", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=self.folder,
                env=os.environ | {"AMSTRAX_LOG_FOLDER": str(self.folder / "logs")},
            )
        self._started.append(child)
        return child

    @property
    def log(self) -> Path:
        """File with what the started processes have said."""
        return self.folder / "campaign.log"

    def scripts(self) -> list[Path]:
        """Return the scripts of jobs."""
        return sorted((self.folder / "jobs").glob("*/*.sh"))

    def data(self, number: int, folder: Path | None = None, target: str = TARGET) -> bytes:
        """Return the data of a run, whose times are those of the run that it is a copy of."""
        st = contexts.xams(output_folder=folder or self.processed, init_rundb=False)
        if target != TARGET:
            st.set_run_document(f"{number:06d}", self.document(number))
        return st.get_array(f"{number:06d}", target, progress_bar=False).tobytes()

    def end(self) -> None:
        """End all processes of this lab."""
        for child in self._started:
            child.kill()
            child.wait()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in part for part in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture
def lab(tmp_path, monkeypatch, live_runs, served_scripts):
    """A lab without runs; the local engine, and the embedded run database.

    Commands and jobs fork from a server (fork_server.py).
    """
    monkeypatch.setattr(sys, "executable", str(served_scripts / "python"))
    made = Lab(tmp_path, live_runs)
    monkeypatch.setenv("XAMS_LIVE_DATA", str(made.live))
    monkeypatch.setenv("XAMS_PROCESSED_DATA", str(made.processed))
    monkeypatch.setenv("AMSTRAX_LOCAL_FOLDER", str(tmp_path / "engine"))
    monkeypatch.setenv("AMSTRAX_LOCAL_JOBS", "2")
    monkeypatch.chdir(tmp_path)
    # Commands set logging up, to an error stream that is this test's
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)
    made.end()
