"""A dashboard in a process of its own, a browser, and the lab that it shows: for its tests."""

import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fork_server import import_environment
from make_jobs import LED, NAI, SHORT, add_run
from make_runs import RUN_ID

from amstrax.rundb.embedded import LocalClient

BROWSER_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
#: What a comment of a run must not do
SCRIPT = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'>"
#: Run that can be processed
SUBMITTED = "000305"
EVENT_TARGETS = ("event_info", "event_waveform", "event_area_per_channel", "records")
#: Runs that are documents alone
MANY = 120


class Lab:
    """Folders, run database and settings of what a dashboard shows.

    Parameters
    ----------
    folder
        For all of it.
    python
        What dashboards, and jobs before them, run with.
    """

    def __init__(self, folder: Path, python: str | Path = sys.executable):
        self.folder, self.python = folder, python
        self.live, self.out = folder / "live", folder / "out"
        self.logs, self.jobs = folder / "logs", folder / "jobs"
        for path in (self.live, self.out, self.logs):
            path.mkdir(exist_ok=True)
        self.store = folder / "database" / "rundb.sqlite"
        self.runs = LocalClient(self.store)["run"]["runs_gas"]
        self.environment = import_environment(dict(os.environ)) | {
            "PATH": os.environ["PATH"],
            "AMSTRAX_CONFIG": os.devnull,
            "AMSTRAX_RUNDB_PATH": str(self.store),
            "AMSTRAX_LOCAL_FOLDER": str(folder / "local"),
            "AMSTRAX_CORRECTIONS_FOLDER": str(folder / "corrections"),
            "AMSTRAX_LOCAL_JOBS": "1",
            "MPLBACKEND": "agg",
        }
        (folder / "corrections").mkdir(exist_ok=True)
        self.store.parent.mkdir(exist_ok=True)

    def add_documents(self, number: int = MANY) -> None:
        """Add runs that are documents alone: 1 to `number`, an hour apart, in turn of two modes."""
        begin = datetime(2024, 1, 1, tzinfo=UTC)
        self.runs.insert_many(
            {
                "number": n,
                "name": f"{n:06d}",
                "mode": ("background", "kr83m")[n % 2],
                "user": "ann",
                "start": begin + timedelta(hours=n),
                "end": begin + timedelta(hours=n, minutes=30),
                "tags": [{"name": "good", "user": "ann", "date": begin}] if n % 10 == 0 else [],
                "processing_status": {
                    "status": "failed" if n % 7 == 0 else "done",
                    "time": begin + timedelta(hours=n + 1),
                    "host": "elsewhere",
                    "reason": "no disk" if n % 7 == 0 else None,
                },
                "comments": [{"user": "eve", "comment": SCRIPT, "date": begin}] if n == 5 else [],
                "daq_config": {"mongo_uri": "mongodb://daq:hush-hush@db/admin", "password": "psst"},
                "data": [{"type": "peaks", "host": "elsewhere", "location": "/data"}],
            }
            for n in range(1, number + 1)
        )

    def add_simulated(self, live_runs: Path, *run_ids: str) -> None:
        """Add simulated runs, with their live data, which are not processed."""
        for run_id in run_ids:
            shutil.copytree(live_runs / run_id, self.live / run_id)
            add_run(self.runs, live_runs, run_id)

    def process(self, run_id: str, context: str, *targets: str) -> None:
        """Process a run, as a job does, and say so in its document."""
        done = subprocess.run(
            [
                *(self.python, "-m", "amstrax.auto_processing.process_run", run_id),
                *(f"--context={context}", f"--output_folder={self.out}", "--no-progress"),
                *(f"--live_data_dir={self.live}", "--target", *targets),
            ],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


class Server:
    """A dashboard in a process of its own.

    Parameters
    ----------
    lab
        What it shows.
    name
        Name of the file with what it says.
    options
        Of the command.
    """

    def __init__(self, lab: Lab, name: str, *options: str):
        self.lab, self.log = lab, lab.folder / f"{name}.log"
        self._file = self.log.open("wb")
        self.process = subprocess.Popen(
            [
                *(lab.python, "-m", "amstrax.commands.dashboard", "--port=0", "--refresh=1"),
                *(f"--output_folder={lab.out}", f"--live_data_dir={lab.live}"),
                *(f"--job_folder={lab.jobs}", f"--log_folder={lab.logs}", *options),
            ],
            env=lab.environment,
            cwd=lab.folder,
            stdout=self._file,
            stderr=self._file,
        )
        self.address = self._wait_for(r"the dashboard is at (https?://[\d.:]+/)")

    def text(self) -> str:
        """Return what it has said."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _wait_for(self, pattern: str) -> str:
        end = time.monotonic() + 120
        while (found := re.search(pattern, self.text())) is None:
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.05)
        return found[1]

    def stop(self) -> int:
        """End it, and return its exit status."""
        self.process.terminate()
        status = self.process.wait(240)
        self._file.close()
        return status


def new_page(browser, width: int = 1280, height: int = 900, **options):
    """Return a page of somebody else's browser, that notes what goes wrong in `page.problems`."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.problems, page.hosts = [], set()
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.hosts.add(request.url.split("/")[2]))
    return page


def part(page, name: str):
    """Return the part of a page that a model of this name is."""
    return page.locator(f"[data-name={name}]")


def press(page, name: str) -> None:
    """Press a button, once it can be."""
    part(page, name).locator("button").click()


def write(page, name: str, text: str) -> None:
    """Write into a field, and leave it."""
    field = part(page, name).locator("input")
    field.fill(text)
    field.press("Enter")


def choose(page, name: str, option: str) -> None:
    """Choose an option."""
    part(page, name).locator("select").select_option(option)


def expect(locator):
    """Return Playwright's assertions about a locator."""
    from playwright.sync_api import expect

    return expect(locator)


def violations(page) -> list[tuple[str, str]]:
    """Return the rules of accessibility that a page breaks, each with an element."""
    axe = pytest.importorskip("axe_playwright_python")
    # Names of check boxes come within a second
    page.wait_for_timeout(2500)
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found]


def bring_to(page, name: str) -> None:
    """Press Tab until the part of this name has the focus."""
    seen = []
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(FOCUSED))
        if seen[-1] == name:
            return
    raise AssertionError(f"Tab does not lead to {name}, but to {seen}")


#: Name of the part of a page that has the focus, or a link's text
FOCUSED = """() => {
    let at = document.activeElement, host = null
    while (at && at.shadowRoot && at.shadowRoot.activeElement) {
        if (at.dataset && at.dataset.name) host = at.dataset.name
        at = at.shadowRoot.activeElement
    }
    return at.dataset && at.dataset.name || host || at.textContent.trim().slice(0, 20)
}"""

__all__ = ["LED", "NAI", "RUN_ID", "SHORT", "Lab", "Server"]
