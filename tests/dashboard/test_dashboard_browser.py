"""The dashboard, as it runs, in a browser: with the local engine, on simulated runs."""

import fcntl
import getpass
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from dashboard_server import (
    FOCUSED,
    LED,
    MANY,
    RUN_ID,
    SHORT,
    SUBMITTED,
    Server,
    choose,
    expect,
    new_page,
    part,
    press,
    write,
)
from make_runs import LENGTH, OVERLAP, THREADS, pulses, rundoc

from amstrax import redax
from amstrax.auto_processing.engines import base
from amstrax.auto_processing.engines.local import LocalEngine
from amstrax.rundb import documents, leases, transfer

pytestmark = pytest.mark.slow


def test_a_run_is_found_and_opened(page, server):
    page.goto(server.address)
    expect(part(page, "count")).to_contain_text(f"Runs 1 to 50 of {MANY + 3}.")
    first = part(page, "runs").locator(".slick-row a").first
    expect(first).to_have_text(SUBMITTED)
    press(page, "next")
    expect(part(page, "count")).to_contain_text(f"Runs 51 to 100 of {MANY + 3}.")
    expect(first).to_have_text(f"{MANY - 47:06d}")
    write(page, "text", "kr83m good")
    expect(part(page, "count")).to_contain_text("No run matches")
    press(page, "clear")
    choose(page, "mode", "kr83m")
    write(page, "last", "30")
    expect(part(page, "count")).to_contain_text("Runs 1 to 15 of 15 that match")
    choose(page, "way", "smallest, oldest first")
    expect(first).to_have_text("000001")
    # A day is chosen from a calendar; run 24 begins on the second of January
    page.goto(f"{server.address}runs?since=yesterday&until=2024-01-01&last=30")
    expect(part(page, "message")).to_contain_text("'yesterday' is no day")
    expect(part(page, "count")).to_contain_text("Runs 1 to 23 of 23 that match")
    page.goto(f"{server.address}runs?since=2024-01-02&last=30")
    expect(part(page, "count")).to_contain_text("Runs 1 to 7 of 7 that match")
    part(page, "since").locator("input.form-control").click()
    part(page, "since").locator("[aria-label='January 1, 2024']").click()
    expect(part(page, "count")).to_contain_text("Runs 1 to 30 of 30 that match")
    press(page, "clear")
    expect(part(page, "count")).to_contain_text(f"of {MANY + 3}.")
    write(page, "text", "000005")
    expect(part(page, "count")).to_contain_text("Runs 1 to 1 of 1 that match")
    # The address holds the view: somebody else sees the same
    page.wait_for_url(re.compile("text=000005"))
    page.reload()
    expect(part(page, "count")).to_contain_text("Runs 1 to 1 of 1 that match")
    part(page, "runs").locator(".slick-row a").click()
    expect(part(page, "about")).to_contain_text("failed" if 5 % 7 == 0 else "done")
    assert "/run?id=000005" in page.url


def test_text_of_documents_is_text_and_secrets_are_not_shown(page, server):
    page.goto(f"{server.address}run?id=5")
    timeline = part(page, "about").locator(".timeline")
    expect(timeline).to_contain_text("<script>window.stolen = 1</script><img src=x")
    part(page, "document").locator("summary").click()
    document = part(page, "document").locator("pre")
    expect(document).to_contain_text("mongodb://(hidden)@db/admin")
    text = document.inner_text()
    assert "hush-hush" not in text and "psst" not in text and "onerror" in text
    assert page.evaluate("window.stolen") is None
    page.goto(f"{server.address}runs?text=%3Cimg%20src%3Dx%20onerror%3D%22window.stolen%3D3%22%3E")
    expect(part(page, "count")).to_contain_text("No run matches")
    assert page.evaluate("window.stolen") is None


def test_what_is_known_of_a_run(page, server):
    page.goto(f"{server.address}run?id={SHORT}")
    data = part(page, "data")
    row = data.locator("tr", has=page.locator("td:text-is('event_info')"))
    expect(row).to_contain_text("✓ yes")
    expect(data.locator("tr", has=page.locator("td:text-is('peaks_ext')"))).to_contain_text("✗ no")
    expect(part(page, "about")).to_contain_text("status done")
    expect(part(page, "options")).to_contain_text("All options")
    expect(part(page, "log")).to_contain_text("no log is known")


def test_brushing_shows_in_the_other_plots(page, server):
    page.goto(f"{server.address}data?id={SHORT}")
    expect(part(page, "loaded")).to_contain_text("events")
    expect(part(page, "figures").locator(".bk-Figure")).to_have_count(7)
    page.wait_for_function("Bokeh.documents[0].is_idle")
    _brush(page, "S1 and S2")
    expect(part(page, "selected")).to_contain_text("selected:")
    # Of the same source, so all figures of events show it; and the histogram counts it
    counted = page.evaluate(
        f"""(title) => {{
        const data = {_FIND}title).renderers.map((each) => each.data_source.data)
        const bins = data.map((each) => each.get ? each.get("selected") : each["selected"])
        return Array.from(bins.find((each) => each != null)).reduce((one, other) => one + other)
    }}""",
        "Drift time",
    )
    said = part(page, "selected").locator("p").inner_text()
    selected = int(re.search(r"(\d+) events? selected", said)[1])
    assert 0 < counted <= selected
    # The peaks of these events are selected, too, and no others
    events, peaks = _selected(page, "S1 and S2"), _selected(page, "Area and width")
    assert len(events["rows"]) == selected
    assert len(peaks["rows"]) == sum(events["n_peaks"][row] for row in events["rows"])
    # And the events of peaks that are selected: of all of them, all
    _brush(page, "Area and width")
    total = len(events["n_peaks"])
    assert total > selected
    expect(part(page, "selected")).to_contain_text(f"{total} events selected:")
    assert len(_selected(page, "S1 and S2")["rows"]) == total
    part(page, "selected").locator("a").first.click()
    expect(part(page, "event_text")).to_contain_text("Event")
    assert "/events?" in page.url


_FIND = """((title) => Bokeh.documents[0].roots()[0].select({type: "Figure"})
    .find((each) => each.title.text.startsWith(title)))("""


def _frame(page, title: str) -> dict:
    """Return where the inside of a figure is on the page."""
    return page.evaluate(
        f"""(title) => {{
        const figure = {_FIND}title)
        const view = Bokeh.index.find_one(figure)
        view.el.scrollIntoView({{block: "center"}})
        const canvas = view.el.getBoundingClientRect(), box = view.frame.bbox
        return {{x: canvas.x + box.left, y: canvas.y + box.top,
                width: box.width, height: box.height}}
    }}""",
        title,
    )


def _brush(page, title: str) -> None:
    """Select all that there is in a figure."""
    before, box = None, _frame(page, title)
    while box != before:  # what was selected before may still move it
        page.wait_for_timeout(200)
        before, box = box, _frame(page, title)
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=5)
    page.mouse.up()


def _selected(page, title: str) -> dict:
    """Return which rows are selected of what a figure shows, and how many peaks events have."""
    return page.evaluate(
        f"""(title) => {{
        const source = {_FIND}title).renderers[0].data_source
        const n_peaks = Array.from(source.get_column("n_peaks") ?? [])
        return {{rows: Array.from(source.selected.indices), n_peaks}}
    }}""",
        title,
    )


def test_events_are_browsed(page, server):
    page.goto(f"{server.address}events?id={SHORT}")
    text = part(page, "event_text")
    expect(text).to_contain_text("Event 0 (1 of")
    expect(part(page, "previous").locator("button")).to_be_disabled()
    press(page, "next")
    expect(text).to_contain_text("Event 1 (2 of")
    page.wait_for_url(re.compile("event=1"))
    write(page, "event", "3")
    expect(text).to_contain_text("Event 3 (4 of")
    press(page, "previous")
    expect(text).to_contain_text("Event 2 (3 of")
    expect(part(page, "figures").locator(".bk-Figure")).to_have_count(6)
    write(page, "event", "999999")
    expect(part(page, "message")).to_contain_text("has no event 999999")
    # Nothing stays in place of an event that does not come
    for run, problem in ((SUBMITTED, "is not stored here"), ("x", "the address has no run id")):
        page.goto(f"{server.address}events?id={run}")
        expect(part(page, "message")).to_contain_text(problem)
        expect(text).to_be_hidden()


def test_led_runs_have_spectra_and_gains(page, server):
    page.goto(f"{server.address}data?id={LED}")
    expect(part(page, "loaded")).to_contain_text("pulses")
    expect(part(page, "gains")).to_contain_text("Occupancy")


def test_calibrations_are_drawn(page, server):
    """With a note where the data is not stored."""
    page.goto(f"{server.address}data?id={SHORT}")
    choose(page, "calibration", "gate and cathode")
    expect(part(page, "fit").locator("img")).to_be_visible()
    choose(page, "calibration", "alphas of XAMSL")
    expect(part(page, "fit")).to_contain_text("radon_peak_basics is not stored here")


def test_two_runs_are_compared(page, server):
    # The address of before, with two runs
    page.goto(f"{server.address}compare?a={SHORT}&b={SHORT}")
    expect(part(page, "compared")).to_contain_text(f"No run of its mode is before {SHORT}")
    # A run of a link goes with the one before it of its mode
    page.goto(f"{server.address}compare?runs=9")
    expect(part(page, "runs").locator("input")).to_have_value("000009, 000007")
    write(page, "runs", f"{SHORT}, {LED}")
    expect(part(page, "message")).to_contain_text("compare runs of one sort")
    write(page, "runs", "6724-x")
    expect(part(page, "message")).to_contain_text("'6724-x' is no range of runs")


def test_a_run_is_submitted_and_watched_to_its_end(page, server, lab, browser):
    """While somebody else looks on."""
    other = new_page(browser)
    other.goto(f"{server.address}run?id={SUBMITTED}")
    page.goto(f"{server.address}processing?runs={SUBMITTED},{SHORT}&status=done")
    submit = part(page, "submit").locator("button")
    expect(submit).to_be_disabled()
    choose(page, "make", "raw data")
    press(page, "dry_run")
    result = part(page, "result")
    expect(result).to_contain_text("dry run")
    assert lab.runs.find_one({"name": SUBMITTED}).get("processing_status") is None
    expect(submit).to_be_enabled()
    submit.click()
    expect(result.locator("tr", has_text=SUBMITTED)).to_contain_text("submitted")
    expect(part(page, "log")).to_contain_text(f"run {SUBMITTED} done in")
    expect(part(page, "by_status")).to_contain_text(SUBMITTED)
    expect(part(other, "about")).to_contain_text("status done")
    expect(part(other, "log")).to_contain_text(f"run {SUBMITTED} done in")
    # What is there is skipped, and said
    write(page, "runs", f"{SUBMITTED}")
    press(page, "dry_run")
    expect(result).to_contain_text("skipped")
    log = server.text()
    assert re.search(
        rf"ACTION user='\w+' from=127.0.0.1: submit SubmitRequest.*runs {SUBMITTED}", log
    )
    other.context.close()


def test_runs_are_tagged_and_jobs_cancelled(page, server, lab):
    page.goto(f"{server.address}processing?runs=6,8")
    write(page, "tag_name", "<b>odd</b>")
    press(page, "add_tag")
    result = part(page, "result")
    expect(result.locator("tr", has_text="000008")).to_contain_text("<b>odd</b>")
    assert documents.tags_of(lab.runs.find_one({"number": 6})) == ["<b>odd</b>"]
    press(page, "abandon")
    expect(result).to_contain_text("abandon")
    press(page, "cancel")
    expect(part(page, "cancel")).to_contain_text("Really cancel?")
    press(page, "cancel")
    expect(result).to_contain_text("run 000008 is done: there is no job to end")
    # A job that is at work
    job_id = _submit_sleep(lab, "000009")
    page.goto(f"{server.address}processing?runs=9")
    press(page, "cancel")
    press(page, "cancel")
    expect(result.locator("tr", has_text="000009")).to_contain_text(f"job {job_id} (local)")
    page.goto(f"{server.address}run?id=9")
    expect(part(page, "about")).to_contain_text(f"cancelled by {getpass.getuser()}")
    page.goto(f"{server.address}runs?first=9&last=9")
    expect(part(page, "runs")).to_contain_text("cancelled")
    page.goto(f"{server.address}processing")
    press(page, "switch_off")
    expect(part(page, "loop")).to_contain_text("The switch is off")
    press(page, "switch_on")
    expect(part(page, "loop")).to_contain_text("The switch is on")


def _submit_sleep(lab, run_id: str) -> str:
    """Submit a job for a run that does nothing, and return its id."""
    script = lab.folder / "sleep.sh"
    base.write_script(script, ["sleep", "300"], {})
    engine = LocalEngine(Path(lab.environment["AMSTRAX_LOCAL_FOLDER"]))
    job = base.Job(run_id, ("a",), "xams", "xams", script, lab.logs / "sleep.log", 100)
    job_id = engine.submit(job)
    told = {"attempt": f"{run_id}-x", "engine": "local", "host": engine.host, "job_id": job_id}
    assert leases.claim(lab.runs, run_id, "submit-me")
    assert documents.set_status(lab.runs, run_id, "submitted", owner="submit-me", job=told)
    assert leases.release(lab.runs, run_id, "submit-me")
    return job_id


def test_a_run_is_seen_growing(page, server, lab):
    run_dir = lab.live / RUN_ID
    run_dir.mkdir()
    records = pulses(np.arange(1, 164) * 100_000_000, channels=range(5))

    def take(chunk_i: int) -> None:
        redax.write_chunk(run_dir, chunk_i, records, THREADS, LENGTH, OVERLAP)

    transfer.add_run(
        lab.runs, rundoc() | {"number": int(RUN_ID), "start": datetime.now(UTC), "end": None}
    )
    page.goto(f"{server.address}run?id={RUN_ID}")
    progress = part(page, "live_progress")
    expect(progress).to_contain_text("being taken")
    take(0)
    expect(progress).to_contain_text("Live data: 1 chunk,")
    choose(page, "make", "raw data")
    press(page, "follow")
    result = part(page, "result").locator("tr", has_text=RUN_ID)
    expect(result).to_contain_text("followed")
    made = progress.locator("tr", has=page.locator("td:text-is('raw_records')"))
    expect(made.locator("td").nth(1)).to_have_text("1")
    expect(made).to_contain_text("being made")
    expect(part(page, "about").locator(".status").first).to_contain_text("running")
    # It is followed once
    press(page, "follow")
    expect(result).to_contain_text("alive already")
    take(1)
    expect(progress).to_contain_text("Live data: 2 chunks,")
    expect(made.locator("td").nth(1)).to_have_text("2")
    redax.write_end(run_dir, THREADS)
    expect(made).to_contain_text("complete")
    expect(part(page, "log")).to_contain_text(f"run {RUN_ID} done in")
    document = documents.find_run(lab.runs, RUN_ID)
    assert documents.status_of(document).status == "pending" and not documents.data_of(document)
    # What follows a run can be ended, which changes nothing of the run
    press(page, "cancel")
    expect(part(page, "cancel")).to_contain_text("Really cancel?")
    lab.runs.update_one({"name": RUN_ID}, {"$set": {"end": datetime.now(UTC)}})
    expect(part(page, "follow")).to_be_hidden()
    press(page, "cancel")
    expect(result).to_contain_text("has ended already")
    expect(part(page, "data")).to_contain_text("✓ yes")


def test_a_run_database_that_is_away_is_said_and_comes_back(page, server, lab):
    page.goto(f"{server.address}runs")
    expect(part(page, "count")).to_contain_text("Runs 1 to 50")
    # With the files beside it, in which the last changes are
    here = lab.store.parent
    away = here.with_name("away")
    here.rename(away)
    here.mkdir()
    lab.store.write_text("this is no database, and long enough to be looked at " * 30)
    try:
        expect(part(page, "message")).to_contain_text("AMSTRAX_RUNDB_PATH")
    finally:
        shutil.rmtree(here)
        away.rename(here)
    expect(part(page, "message")).to_be_hidden()
    page.goto(f"{server.address}run?id=987654")
    expect(part(page, "message")).to_contain_text("run 987654 is not in the run database")


def test_it_can_be_used_with_the_keyboard_and_on_a_phone(server, browser, tmp_path):
    page = new_page(browser, 390, 844)
    for path in ("runs", f"run?id={SHORT}", f"data?id={SHORT}", "processing", "compare"):
        page.goto(server.address + path)
        page.wait_for_function(
            "window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    page.goto(f"{server.address}runs")
    expect(part(page, "count")).to_contain_text("Runs 1 to 50")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(FOCUSED))
    wanted = {"text", "first", "last", "since", "until", "status", "mode", "tag", "clear"}
    assert wanted | {"order", "way", "next", "Runs", "Processing", "runs"} <= reached
    assert page.problems == []
    page.context.close()


def test_what_is_selected_and_sorted_is_the_whole_list(page, server):
    page.goto(f"{server.address}runs?text=ann&last={MANY}")
    count, rows = part(page, "count"), part(page, "runs").locator(".slick-row")
    expect(count).to_contain_text("Runs 1 to 50")
    rows.first.locator("input").click()
    expect(part(page, "selection")).to_contain_text("1 selected")
    press(page, "next")
    expect(count).to_contain_text("Runs 51 to 100")
    rows.filter(has_text=f"{MANY - 50:06d}").locator("input").click()
    expect(part(page, "selection")).to_contain_text("2 selected")
    chosen = f"runs={MANY:06d}%2C{MANY - 50:06d}"
    link = part(page, "selection").locator("a", has_text="process")
    expect(link).to_have_attribute("href", re.compile(chosen))
    # A click on a header sorts all runs, and the header says so
    header = part(page, "runs").locator(".slick-header-column")
    header.filter(has_text="Mode").click()
    expect(header.filter(has_text="Mode ▼")).to_be_visible()
    expect(rows.first).to_contain_text("kr83m")
    header.filter(has_text="Mode").click()
    expect(header.filter(has_text="Mode ▲")).to_be_visible()
    expect(rows.first).to_contain_text("background")
    header.filter(has_text="Tags").click()
    expect(part(page, "runs").locator(".slick-sort-indicator:visible")).to_have_count(0)
    expect(part(page, "selection")).to_contain_text("2 selected")
    press(page, "unselect")
    expect(part(page, "selection")).to_contain_text("Select runs to process")


def test_runs_to_act_on_are_all_understood_or_refused(page, server):
    page.goto(f"{server.address}processing?status=failed")
    write(page, "runs", "8-10, 12")
    press(page, "dry_run")
    result = part(page, "result")
    for number in (8, 9, 10, 12):
        expect(result.locator("tr", has_text=f"{number:06d}")).to_have_count(1)
    page.wait_for_url(re.compile("runs=8-10"))
    write(page, "runs", "8-10, 12 9..11 12-8 last")
    expect(part(page, "message")).to_contain_text("'9..11' is no run id")
    for name in ("dry_run", "add_tag", "cancel"):
        press(page, name)
        for word in ("9..11", "12-8", "last"):
            expect(result).to_contain_text(f"'{word}' is no")
        expect(result.locator("table")).to_have_count(0)
    write(page, "runs", "")
    expect(part(page, "message")).to_be_hidden()


def test_states_are_the_same_everywhere(page, server, lab):
    """Also of runs that have no status of their own."""
    now = datetime.now(UTC)
    base_of = {"mode": "background", "user": "zoe"}
    job = {"attempt": "a", "cancelled_by": "ann"}
    claim = {"owner": "a.1", "expires": now + timedelta(hours=1)}
    states = {
        7001: ("being taken", {"start": now - timedelta(hours=3)}),
        7002: ("no end", {"start": now - timedelta(weeks=6)}),
        7003: ("cancelled", {"processing_status": {"status": "failed"}, "processing_job": job}),
        7004: ("running", {"processing_claim": claim, "start": now, "end": now}),
        7005: ("running", {"start": now}),
    }
    for number, (_, fields) in states.items():
        transfer.add_run(lab.runs, {"number": number, **base_of, **fields})
    # As amstraxer does, which leaves the run database alone
    (lab.out / "007005-peaks-abc_temp").mkdir()
    folder = (lab.out / ".amstraxer.lock").open("a")
    fcntl.lockf(folder, fcntl.LOCK_EX, 1, leases.lock_place("007005"))
    try:
        page.goto(f"{server.address}runs?first=7001&last=7005")
        rows = part(page, "runs").locator(".slick-row")
        for number, (state, _) in states.items():
            cell = rows.filter(has_text=f"{number:06d}").locator(".status")
            expect(cell).to_have_text(state)
        for state, total in (("running", 2), ("being taken", 1), ("no end", 1), ("cancelled", 1)):
            choose(page, "status", state)
            expect(part(page, "count")).to_contain_text(f"Runs 1 to {total} of {total} that")
        for number, (state, _) in states.items():
            page.goto(f"{server.address}run?id={number}")
            expect(part(page, "about").locator(".status").first).to_contain_text(state)
        page.goto(f"{server.address}processing?status=cancelled")
        expect(part(page, "by_status").locator("table")).to_contain_text("007003")
        page.goto(f"{server.address}processing?status=failed")
        table = part(page, "by_status").locator("table")
        expect(table).to_contain_text("000007")
        expect(table).not_to_contain_text("007003")
    finally:
        folder.close()
        (lab.out / "007005-peaks-abc_temp").rmdir()
        lab.runs.delete_many({"user": "zoe"})


def test_a_run_database_that_vanishes_is_not_taken_for_an_empty_one(page, server, lab):
    page.goto(f"{server.address}runs")
    expect(part(page, "count")).to_contain_text("Runs 1 to 50")
    here, away = lab.store.parent, lab.store.parent.with_name("vanished")
    here.rename(away)
    try:
        expect(part(page, "message")).to_contain_text("has vanished")
        expect(part(page, "count")).to_contain_text("Runs 1 to 50")
        page.reload()
        expect(part(page, "message")).to_contain_text("has vanished")
        expect(part(page, "count")).to_have_text("")
    finally:
        away.rename(here)
    expect(part(page, "message")).to_be_hidden()
    expect(part(page, "count")).to_contain_text("Runs 1 to 50")


def test_an_open_page_outlives_a_restart(browser, lab):
    server = Server(lab, "first", "--allow-actions")
    port = server.address.split(":")[2].strip("/")
    page, idle = new_page(browser), new_page(browser)
    # As in a hidden tab: what is done each second comes too late to see that the connection is lost
    idle.add_init_script("const every = setInterval; setInterval = (f, ms) => every(f, 10 * ms)")
    page.goto(f"{server.address}runs?text=kr83m")
    idle.goto(f"{server.address}compare")
    expect(part(page, "count")).to_contain_text("that match")
    expect(part(idle, "compared")).to_contain_text("Name runs to compare")
    for each in (page, idle):
        each.wait_for_function("Bokeh.documents[0].is_idle")
        # Bokeh's own way back, which is open for 5 minutes, is closed
        each.evaluate("() => { WebSocket = class { close() {} } }")
    assert server.stop() == 0
    for each in (page, idle):
        expect(each.locator("#lost")).to_be_visible()
    server = Server(
        lab, "second", "--allow-actions", f"--port={port}", '--config_kwargs={"elife": 3e5}'
    )
    for each in (page, idle):
        expect(each.locator("#lost")).to_be_hidden()
    # With what was to be seen, and alive
    expect(part(page, "count")).to_contain_text("that match")
    write(page, "text", "000005")
    expect(part(page, "count")).to_contain_text("Runs 1 to 1 of 1 that match")
    write(idle, "runs", "x")
    expect(part(idle, "message")).to_contain_text("'x' is no run")
    # An LED run is submitted from there, although its context does not take this option
    idle.goto(f"{server.address}processing?runs={LED},{SHORT}")
    part(idle, "again").locator("input").check()
    press(idle, "dry_run")
    result = part(idle, "result")
    expect(result.locator("tr", has_text=LED)).to_contain_text("dry run")
    for row in result.locator("summary").all():
        row.click()
    left = "options left out, since xams_led does not take: elife"
    expect(result.locator("tr", has_text=LED)).to_contain_text(left)
    expect(result.locator("tr", has_text=SHORT)).to_contain_text("--config_kwargs=")
    choose(idle, "submit_context", "xams_led")
    press(idle, "dry_run")
    expect(result.locator("tr", has_text=SHORT)).to_contain_text(left)
    assert page.problems == idle.problems == []
    for each in (page, idle):
        each.context.close()
    assert server.stop() == 0
    secret = lab.folder / "local" / "dashboard_secret"
    assert secret.stat().st_mode & 0o777 == 0o600
