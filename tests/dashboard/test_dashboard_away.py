"""What the dashboard is made of goes away, and comes back: it says so, and goes on by itself."""

from pathlib import Path
from urllib.parse import quote_plus

import pytest
from dashboard_server import Lab, Server, expect, new_page, part
from servers import LOCALHOST, MONGO_USERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory, mongo_server, slurm_cluster):
    """A lab whose run database is behind MongoDB's protocol, and whose jobs run in Slurm."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    password = quote_plus(MONGO_USERS["writer"][0])
    # Slurm's commands would ask for half a minute before they say that nobody answers
    lines = Path(slurm_cluster.environment["SLURM_CONF"]).read_text().splitlines()
    lines = [line for line in lines if not line.startswith("MessageTimeout")]
    slurm_conf = lab.folder / "slurm.conf"
    slurm_conf.write_text("\n".join([*lines, "MessageTimeout=3", ""]))
    lab.environment |= {
        "SLURM_CONF": str(slurm_conf),
        "AMSTRAX_MONGO_URI": f"mongodb://writer:{password}@{LOCALHOST}:{mongo_server.port}",
        # So long a page waits before it says that the run database is away
        "AMSTRAX_RUNDB_TIMEOUT": "1",
    }
    slurm_cluster.start()
    with mongo_server.client() as client:
        lab.runs = client["run"]["runs_gas"]
        lab.runs.drop()
        lab.add_documents(3)
    return lab


@pytest.fixture(scope="module")
def server(lab):
    """The dashboard of that lab."""
    server = Server(lab, "server", "--engine=slurm")
    yield server
    assert server.stop() == 0, server.text()
    assert MONGO_USERS["writer"][0] not in server.text()


def test_run_database_is_killed_and_started_anew(browser, server, mongo_server):
    """Also for a page that is opened meanwhile."""
    page, late = new_page(browser), new_page(browser)
    page.goto(f"{server.address}runs")
    expect(part(page, "count")).to_contain_text("Runs 1 to 3 of 3.")
    mongo_server.kill()
    try:
        expect(part(page, "message")).to_contain_text("The list of runs:")
        expect(part(page, "message")).to_contain_text("retried automatically")
        # What was there is still to be seen
        expect(part(page, "count")).to_contain_text("Runs 1 to 3 of 3.")
        late.goto(f"{server.address}run?id=2")
        expect(part(late, "message")).to_contain_text("The run:")
        for each in (page, late):
            assert MONGO_USERS["writer"][0] not in each.content()
            assert "Traceback" not in each.content()
    finally:
        mongo_server.start()
    for each in (page, late):
        expect(part(each, "message")).to_be_hidden()
    expect(part(late, "about")).to_contain_text("done")
    assert page.problems == late.problems == []
    for each in (page, late):
        each.context.close()


def test_engine_is_killed_and_started_anew(browser, server, slurm_cluster):
    page = new_page(browser)
    page.goto(f"{server.address}processing")
    expect(part(page, "queue")).to_contain_text("No job of yours")
    slurm_cluster.kill("slurmctld")
    try:
        expect(part(page, "message")).to_contain_text("The queue of engine slurm:")
        # All else goes on
        expect(part(page, "by_status")).to_contain_text("done 3")
    finally:
        slurm_cluster.start()
    expect(part(page, "message")).to_be_hidden()
    expect(part(page, "queue")).to_contain_text("No job of yours")
    assert page.problems == []
    page.context.close()
