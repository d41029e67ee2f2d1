"""What a shifter does beside the list: judge, comment, undo, select all, export; in a browser."""

import csv
import io
import re
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dashboard_server import (
    LED,
    SHORT,
    SUBMITTED,
    Server,
    choose,
    expect,
    new_page,
    part,
    press,
    violations,
    write,
)
from make_jobs import add_run

from amstrax import contexts, simulation
from amstrax.rundb import connection, documents, transfer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tab(browser, server):
    """One page for all tests here, of which nothing has gone wrong."""
    page = new_page(browser)
    yield page
    assert page.problems == []
    page.context.close()


def test_runs_are_judged_and_commented_beside_the_list(tab, server, lab):
    tab.goto(f"{server.address}runs?first=40&last=45")
    expect(part(tab, "count")).to_contain_text("6 of 6 that match.")
    expect(part(tab, "count")).to_contain_text("6 runs without known live time: 3 h")
    press(tab, "select_all")
    expect(part(tab, "selection")).to_contain_text("6 selected")
    expect(part(tab, "log")).to_contain_text("no log is known")
    write(tab, "comment", "gas <b>leak</b>")
    press(tab, "bad")
    result = part(tab, "result")
    expect(result.locator("tr", has_text="000045")).to_contain_text("gas <b>leak</b>")
    found = lab.runs.find_one({"number": 45})
    assert documents.quality_of(found) == "bad"
    # As strax selects runs
    st = contexts.xams(output_folder=str(lab.out), init_rundb=False)
    st.storage = [_frontend(lab)]
    names = st.select_runs(include_tags="bad")["name"].tolist()
    assert sorted(names) == [f"{n:06d}" for n in range(40, 46)]
    press(tab, "add_comment")
    expect(result).to_contain_text("commented")
    assert documents.comments_of(lab.runs.find_one({"number": 41}))[-1]["text"] == "gas <b>leak</b>"
    expect(part(tab, "runs").locator(".slick-row").first).to_contain_text("gas <b>leak</b>")
    # Found by comment, and a judgement replaces another
    write(tab, "text", "leak")
    expect(part(tab, "count")).to_contain_text("6 of 6 that match")
    press(tab, "good")
    expect(result).to_contain_text("good")
    assert documents.quality_of(lab.runs.find_one({"number": 45})) == "good"
    # A tag is taken back
    write(tab, "tag_name", "odd")
    press(tab, "add_tag")
    expect(part(tab, "undo")).to_contain_text("Undo: remove odd")
    press(tab, "undo")
    expect(result).to_contain_text("tag removed")
    assert "odd" not in documents.tags_of(lab.runs.find_one({"number": 45}))
    # Undo keeps the tag that another user has added since
    press(tab, "add_tag")
    expect(part(tab, "undo")).to_contain_text("Undo: remove odd")
    documents.remove_tag(lab.runs, 45, "odd")
    documents.add_tag(lab.runs, 45, "odd", "bob")
    press(tab, "undo")
    expect(result.locator("tr", has_text="000045")).to_contain_text("has none of yours")
    expect(result.locator("tr", has_text="000044")).to_contain_text("tag removed")
    assert "odd" in documents.tags_of(lab.runs.find_one({"number": 45}))


def _frontend(lab):
    from amstrax.rundb import RunDB

    return RunDB(collection=lab.runs, readonly=True)


def test_the_list_says_what_is_there_and_is_exported(tab, server):
    tab.goto(f"{server.address}runs?first={int(LED)}")
    rows = part(tab, "runs").locator(".slick-row")
    expect(rows.filter(has_text=SHORT).locator(".data.here")).to_have_count(2)
    expect(rows.filter(has_text=LED).locator(".data.here")).to_have_count(2)
    tab.goto(f"{server.address}runs?mode=kr83m&first=1&last=30")
    expect(part(tab, "count")).to_contain_text("15 of 15")
    press(tab, "export")
    exported = part(tab, "exported")
    expect(exported.locator("pre")).to_contain_text("st.select_runs(run_mode='kr83m', run_id=[")
    with tab.expect_download() as download:
        exported.locator("a").click()
    table = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8"))))
    assert [row["run"] for row in table] == [f"{n:06d}" for n in range(1, 30, 2)]
    assert {float(row["seconds"]) for row in table} == {1800.0}
    tab.keyboard.press("/")
    tab.keyboard.type("000003")
    tab.keyboard.press("Enter")
    expect(part(tab, "count")).to_contain_text("1 of 1")


def test_led_runs_are_browsed_and_compared(tab, server):
    tab.goto(f"{server.address}events?id={LED}")
    expect(part(tab, "event_text")).to_contain_text("Pulse 0 (1 of")
    press(tab, "next")
    expect(part(tab, "event_text")).to_contain_text("Pulse 1 (2 of")
    expect(part(tab, "figures").locator(".bk-Figure")).to_have_count(1)
    tab.goto(f"{server.address}data?id={SHORT}&bins=30")
    expect(part(tab, "figures").locator(".bk-Figure")).to_have_count(7)
    # Brushing needs no click on a tool
    drags = tab.evaluate(
        "Bokeh.documents[0].roots()[0].select({type: 'Figure'})"
        ".map((each) => each.toolbar.gestures.pan.active?.type)"
    )
    assert set(drags) <= {"BoxSelectTool", "BoxZoomTool"} and drags.count("BoxSelectTool") >= 6


def test_several_runs_are_compared_with_ratios(tab, server, lab, live_runs):
    again = "000306"
    shutil.copytree(lab.live / SHORT, lab.live / again)
    add_run(lab.runs, live_runs, SHORT, _id=again, name=again, number=int(again))
    try:
        lab.process(again, "xams", "peak_basics")
        tab.goto(f"{server.address}compare?runs={SHORT},{again}")
        expect(part(tab, "compared")).to_contain_text(again)
        figures = "Bokeh.documents[0].roots()[0].select({type: 'Figure'})"
        tab.wait_for_function(f"{figures}.length >= 4")
        # The same live data, so all ratios are 1
        ratios = tab.evaluate(
            f"{figures}.map((each) => each.renderers).flat()"
            ".map((each) => each.data_source.get_column('ratio')).filter((each) => each)"
            ".map((each) => Array.from(each)).flat()"
        )
        ratios = [ratio for ratio in ratios if isinstance(ratio, (int, float)) and ratio == ratio]
        assert ratios and set(ratios) == {1.0}
        # A run without data leaves out itself alone
        tab.goto(f"{server.address}compare?runs={SHORT},000004,{again}")
        expect(part(tab, "compared")).to_contain_text("Left out: peak_basics of run 000004")
        expect(part(tab, "compared").locator("tr", has_text="000004")).to_have_count(0)
        expect(tab.locator(".bk-Figure").nth(3)).to_be_visible()
    finally:
        lab.runs.delete_one({"name": again})


def test_trends_are_shown_with_limits_and_lead_to_runs(tab, server, lab):
    trends = lab.runs.database["trends_gas"]
    now = datetime.now(UTC)
    for number, rate in ((10, 4.0), (11, 9.0)):
        row = {"name": f"{number:06d}", "number": number, "lineage": "abc", "context": "xams"}
        row |= {"start": now - timedelta(hours=number), "time": now, "values": {"s1_rate": rate}}
        row |= {"flags": ["s1_rate"] if rate > 5 else [], "error": None, "reasons": {}}
        connection.save_trend(trends, row | {"limits": {"s1_rate": [None, 5.0]}})
    tab.goto(f"{server.address}trends")
    expect(part(tab, "loaded")).to_contain_text("2 runs.")
    tab.wait_for_function("Bokeh.documents[0].roots()[0].select({type: 'Figure'}).length == 1")
    sizes = tab.evaluate(
        "Array.from(Bokeh.documents[0].roots()[0].select({type: 'Figure'})[0]"
        ".renderers[0].data_source.get_column('size'))"
    )
    # The flagged run began first
    assert sizes == [11, 6]
    x, y = tab.evaluate(
        """() => {
        const figure = Bokeh.documents[0].roots()[0].select({type: "Figure"})[0]
        const view = Bokeh.index.find_one(figure), source = figure.renderers[0].data_source
        const at = view.canvas_view.el.getBoundingClientRect()
        const {x_scale, y_scale} = view.frame
        return [at.x + x_scale.compute(source.get_column("start")[0]),
                at.y + y_scale.compute(source.get_column("value")[0])]
    }"""
    )
    tab.mouse.click(x, y)
    tab.wait_for_url(re.compile("run[?]id=000011"))


def test_alarms_are_shown_until_acknowledged(tab, server, lab):
    """And what was written about runs is in the shift log."""
    now = datetime.now(UTC)
    for number in range(700, 703):
        document = {"number": number, "start": now, "end": now}
        document["processing_status"] = {"status": "failed", "time": now, "reason": "no <disk>"}
        document["comments"] = [{"user": "eve", "comment": "<i>odd</i>", "date": now}]
        transfer.add_run(lab.runs, document)
    try:
        tab.goto(f"{server.address}log?days=1&text=odd")
        expect(part(tab, "entries").locator("tr", has_text="000701")).to_contain_text("<i>odd</i>")
        alarm = part(tab, "alarms")
        expect(alarm).to_contain_text("the last 3 jobs of xams failed")
        expect(alarm).to_contain_text("no <disk>")
        tab.goto(f"{server.address}compare")
        expect(alarm).to_contain_text("the last 3 jobs of xams failed")
        # A trend beyond its limit may be another one
        row = alarm.locator(".bk-Row", has_text="the last 3 jobs of xams failed")
        row.locator("button").click()
        expect(alarm).not_to_contain_text("the last 3 jobs")
        tab.goto(f"{server.address}log?days=1")
        expect(part(tab, "entries")).to_contain_text("eve")
        tab.wait_for_timeout(6000)
        expect(alarm).not_to_contain_text("the last 3 jobs")
    finally:
        lab.runs.delete_many({"number": {"$gte": 700}})


def test_storage_is_summed_up(tab, server, lab):
    """Sizes as on disk, and the command that deletes what newer data replaces."""
    name = next(lab.out.glob(f"{SHORT}-event_info-*")).name
    old = lab.out / f"{SHORT}-event_info-abcdefghij"
    shutil.copytree(lab.out / name, old)
    try:
        tab.goto(f"{server.address}storage")
        sums = part(tab, "storage")
        row = sums.locator("tr", has=tab.locator("td:text-is('event_info')"))
        expect(row).to_contain_text("1")
        place = sums.locator("tr", has_text=str(lab.out))
        expect(place).to_contain_text("GB")
        largest = part(tab, "of_runs").locator("tr", has_text=SHORT)
        expect(largest).to_contain_text("raw_records")
        command = f"delete-data {SHORT} event_info abcdefghij --folder {lab.out} --yes"
        expect(part(tab, "old")).to_contain_text(f"amstrax rundb --detector xams {command}")
        write(tab, "runs", "5")
        expect(part(tab, "of_runs")).to_contain_text("peaks of unknown size")
        expect(part(tab, "of_runs")).not_to_contain_text(SHORT)
        tab.wait_for_url(re.compile("runs=5"))
        write(tab, "runs", "five")
        expect(part(tab, "message")).to_contain_text("five")
        assert old.is_dir()
    finally:
        shutil.rmtree(old)


def test_no_page_breaks_a_rule_of_accessibility(tab, server):
    pages = ("runs", f"run?id={SHORT}", f"data?id={SHORT}", f"events?id={SHORT}")
    for path in (*pages, "compare", "processing", "log", "trends", "storage"):
        tab.goto(server.address + path)
        tab.wait_for_function("window.Bokeh && Bokeh.documents[0]?.is_idle")
        if path == "runs":
            part(tab, "runs").locator(".slick-row input").first.click()
            choose(tab, "make", "data types of choice")
        assert violations(tab) == [], path


def test_choices_of_targets(tab, server):
    tab.goto(f"{server.address}processing?runs={SUBMITTED}")
    expect(part(tab, "targets")).to_be_hidden()
    choose(tab, "make", "data types of choice")
    press(tab, "dry_run")
    expect(part(tab, "result")).to_contain_text("name the data types to make")
    # Names are completed
    field = part(tab, "targets").locator("input.choices__input")
    field.press_sequentially("peak_bas")
    expect(part(tab, "targets").locator(".choices__list--dropdown")).to_contain_text("peak_basics")
    field.press("Enter")
    write(tab, "memory", "3210")
    press(tab, "dry_run")
    result = part(tab, "result")
    result.locator("summary").click()
    expect(result.locator("pre")).to_contain_text("--target peak_basics")
    expect(result.locator("pre")).to_contain_text("3210 MB")


def test_what_suits_the_run_is_chosen(tab, server):
    for run_id, made in ((LED, "LED pulses"), (SHORT, "events")):
        tab.goto(f"{server.address}run?id={run_id}")
        expect(part(tab, "about")).to_contain_text("Mode")
        expect(part(tab, "make").locator("select")).to_have_value(made)
        expect(part(tab, "follow")).to_be_hidden()
        link = part(tab, "act_links").locator("a")
        expect(link).to_have_attribute("href", f"compare?runs={run_id}")
        press(tab, "export_these")
        expect(part(tab, "result").locator("pre")).to_contain_text(f"run_id=['{run_id}']")
    # And in the list, unless the user has chosen
    tab.goto(f"{server.address}runs?first={int(LED)}&last={int(SHORT)}")
    rows = part(tab, "runs").locator(".slick-row")
    rows.filter(has_text=LED).locator("input").click()
    expect(part(tab, "make").locator("select")).to_have_value("LED pulses")
    choose(tab, "make", "raw data")
    rows.filter(has_text=LED).locator("input").click()
    rows.filter(has_text=SHORT).locator("input").click()
    expect(part(tab, "selection")).to_contain_text("1 selected")
    expect(part(tab, "make").locator("select")).to_have_value("raw data")


def test_a_selected_run_can_be_followed_until_its_end(tab, server, lab):
    transfer.add_run(lab.runs, {"number": 730, "start": datetime.now(UTC), "mode": "background"})
    try:
        tab.goto(f"{server.address}runs?first=730&last=730")
        part(tab, "runs").locator(".slick-row input").click()
        expect(part(tab, "follow")).to_be_visible()
        lab.runs.update_one({"number": 730}, {"$set": {"end": datetime.now(UTC)}})
        expect(part(tab, "follow")).to_be_hidden()
        expect(part(tab, "selection")).to_contain_text("1 selected")
    finally:
        lab.runs.delete_one({"number": 730})


def test_all_failed_runs_of_a_filter_are_retried(tab, server):
    tab.goto(f"{server.address}runs?last=15")
    expect(part(tab, "count")).to_contain_text("15 of 15")
    press(tab, "retry")
    result = part(tab, "result")
    for run_id in ("000007", "000014"):
        expect(result.locator("tr", has_text=run_id)).to_contain_text("dry run")
    expect(result.locator("tr", has_text="0000")).to_have_count(2)
    expect(part(tab, "submit").locator("button")).to_be_enabled()
    assert violations(tab) == []
    tab.goto(f"{server.address}runs?last=15&status=done")
    press(tab, "retry")
    expect(part(tab, "message")).to_contain_text("the filter is for others")


def test_failed_runs_have_check_box_reason_and_log(tab, server, lab):
    log = lab.logs / "job7.log"
    log.write_text("the disk <b>was</b> full\n")
    job = {"log": str(log), "attempt": "a", "engine": "local", "job_id": "999@nowhere"}
    lab.runs.update_one({"number": 7}, {"$set": {"processing_job": job}})
    gone = {"status": "running", "time": datetime.now(UTC)}
    ended = job | {"job_id": f"999999@{socket.gethostname()}"}
    lost = {"number": 710, "start": gone["time"], "end": gone["time"]}
    transfer.add_run(lab.runs, lost | {"processing_status": gone, "processing_job": ended})
    transfer.add_run(
        lab.runs, lost | {"number": 711, "processing_status": gone, "processing_job": job}
    )
    try:
        tab.goto(f"{server.address}processing?status=failed")
        row = part(tab, "by_status").locator("tr", has_text="000007")
        expect(row).to_contain_text("no disk")
        row.locator("input").check()
        expect(part(tab, "runs").locator("input")).to_have_value("000007")
        expect(part(tab, "log")).to_contain_text("the disk <b>was</b> full")
        part(tab, "by_status").locator("tr", has_text="000014").locator("input").check()
        expect(part(tab, "runs").locator("input")).to_have_value("000007, 000014")
        row.locator("input").uncheck()
        expect(part(tab, "runs").locator("input")).to_have_value("000014")
        # Jobs that no engine knows, and those of another machine, which this one cannot ask
        choose(tab, "status", "running")
        table = part(tab, "by_status")
        expect(table.locator("tr", has_text="000710")).to_contain_text("not known to the engine")
        expect(table.locator("tr", has_text="000711")).not_to_contain_text("not known")
        tab.goto(f"{server.address}run?id=710")
        expect(part(tab, "about")).to_contain_text("not known to the engine")
    finally:
        lab.runs.delete_many({"number": {"$in": [710, 711]}})
        lab.runs.update_one({"number": 7}, {"$unset": {"processing_job": 1}})


def test_too_many_runs_are_refused_and_not_selected_later(tab, server, lab):
    now = datetime.now(UTC)
    many = range(10_001, 10_202)
    lab.runs.insert_many(
        {"number": n, "name": f"{n:06d}", "mode": "background", "start": now, "end": now}
        for n in many
    )
    try:
        tab.goto(f"{server.address}runs?first=10001")
        press(tab, "select_all")
        message = part(tab, "message")
        expect(message).to_contain_text("201 runs are found, an action takes 200")
        expect(message).not_to_contain_text("retried")
        write(tab, "last", "10010")
        expect(part(tab, "count")).to_contain_text("10 of 10")
        # Longer than until another attempt
        tab.wait_for_timeout(2500)
        expect(part(tab, "selection")).not_to_contain_text("selected")
        press(tab, "select_all")
        expect(part(tab, "selection")).to_contain_text("10 selected")
        expect(message).to_be_hidden()
    finally:
        lab.runs.delete_many({"number": {"$in": list(many)}})


def test_what_the_list_tells_and_finds(tab, server, lab):
    now = datetime.now(UTC)
    told = {"run_class": "calibration", "source_type": "co57", "science_run_id": "SR-7"}
    written = [
        {"user": "a", "text": "newest <i>one</i>", "date": now},
        {"user": "b", "comment": "older", "date": now - timedelta(days=1)},
    ]
    start = {"number": 720, "start": now - timedelta(hours=1), "end": now}
    transfer.add_run(lab.runs, start | {"xams_bookkeeping": told, "comments": written})
    trends = lab.runs.database["trends_gas"]
    row = {"name": "000720", "number": 720, "lineage": "x", "context": "xams", "start": now}
    row |= {"time": now, "values": {"livetime": 1200.0}, "flags": [], "error": None}
    connection.save_trend(trends, row | {"reasons": {}, "limits": {}})
    try:
        tab.goto(f"{server.address}runs?text=newest")
        first = part(tab, "runs").locator(".slick-row").first
        for text in ("000720", "calibration", "co57", "SR-7", "newest <i>one</i>"):
            expect(first).to_contain_text(text)
        expect(part(tab, "count")).to_contain_text("Live time 20 min of 1 run, from data and")
        tab.goto(f"{server.address}runs?text=disk")
        expect(part(tab, "count")).to_contain_text("17 of 17")
        # From row to row, and to a run, without a mouse
        expect(part(tab, "runs").locator(".slick-row a").first).to_have_text("000119")
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("ArrowUp")
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("Space")
        expect(part(tab, "selection")).to_contain_text("1 selected")
        tab.keyboard.press("Enter")
        tab.wait_for_url(re.compile("id=000112"))
    finally:
        lab.runs.delete_many({"number": 720})
        trends.delete_many({"number": 720})


def test_xamsl_is_shown_processed_and_browsed(browser, lab):
    little = "000308"
    options = {"source": "rn222", "rate": 10, "duration": 2, "yields": "simple"}
    simulation.simulate(little, lab.live, detector="xamsl", **options)
    add_run(lab.runs.database.client["run"]["runs_new"], lab.live, little)
    server = Server(lab, "xamsl", "--detector=xamsl", "--allow-actions")
    page = new_page(browser)
    try:
        page.goto(f"{server.address}run?id={little}")
        expect(part(page, "make").locator("select")).to_have_value("peaks")
        press(page, "dry_run")
        press(page, "submit")
        expect(part(page, "result")).to_contain_text("submitted")
        expect(part(page, "about")).to_contain_text("status done")
        page.goto(f"{server.address}data?id={little}")
        expect(part(page, "loaded")).to_contain_text("peaks")
        page.goto(f"{server.address}events?id={little}")
        expect(part(page, "event_text")).to_contain_text("Peak 0 (1 of")
        expect(part(page, "figures").locator(".bk-Figure")).to_have_count(1)
        for path in ("runs", f"run?id={little}", f"events?id={little}"):
            page.goto(server.address + path)
            page.wait_for_function("window.Bokeh && Bokeh.documents[0]?.is_idle")
            assert violations(page) == [], path
        assert page.problems == []
        assert page.hosts == {server.address.split("/")[2]}
    finally:
        page.context.close()
        assert server.stop() == 0, server.text()
