"""What tests of the dashboard share: a lab, a server for it, and a browser."""

import shutil

import pytest
from dashboard_server import (
    BROWSER_ARGUMENTS,
    EVENT_TARGETS,
    LED,
    SHORT,
    SUBMITTED,
    Lab,
    Server,
    new_page,
)
from make_jobs import add_run, made_once
from needs import CHROMIUM, need_all


@pytest.fixture(scope="session")
def lab(tmp_path_factory, live_runs, served_scripts):
    """A lab with many runs, of which two are processed, and one can be.

    It is processed once for all workers, and then each has one of its own.
    """
    need_all("chromium", "playwright")

    def make(folder):
        lab = Lab(folder, served_scripts / "python")
        lab.add_documents()
        lab.add_simulated(live_runs, SHORT, LED)
        # The same live data once more, not processed yet
        shutil.copytree(lab.live / SHORT, lab.live / SUBMITTED)
        add_run(lab.runs, live_runs, SHORT, _id=SUBMITTED, name=SUBMITTED, number=int(SUBMITTED))
        lab.process(SHORT, "xams", *EVENT_TARGETS)
        lab.process(LED, "xams_led", "led_calibration")
        lab.runs.database.client.close()

    folder = tmp_path_factory.mktemp("lab")
    made = made_once(tmp_path_factory, "lab", make)
    shutil.copytree(made, folder, dirs_exist_ok=True)
    lab = Lab(folder, served_scripts / "python")
    # Its documents say where its data is
    for name in (SHORT, LED):
        data = lab.runs.find_one({"name": name})["data"]
        for entry in data:
            entry["location"] = entry["location"].replace(str(made), str(folder))
        lab.runs.update_one({"name": name}, {"$set": {"data": data}})
    return lab


@pytest.fixture(scope="session")
def server(lab):
    """The dashboard of that lab, with actions."""
    server = Server(lab, "server", "--allow-actions")
    yield server
    assert server.stop() == 0, server.text()
    assert "Traceback" not in server.text()


@pytest.fixture(scope="module")
def browser():
    """A browser."""
    need_all("chromium", "playwright")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=180_000)
    # Not for longer: it has a loop in this thread, which other tests cannot have then
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(BROWSER_ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def page(browser, server):
    """A page, of which nothing has gone wrong and nothing came from elsewhere at its end."""
    page = new_page(browser)
    yield page
    assert page.problems == []
    assert page.hosts == {server.address.split("/")[2]}
    page.context.close()
