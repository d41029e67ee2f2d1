"""What a shifter does beside the list: judge, comment, undo, select all, export; in a browser."""

import csv
import io
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dashboard_server import LED, SHORT, choose, expect, new_page, part, press, write
from make_jobs import add_run

from amstrax import contexts
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
    expect(part(tab, "count")).to_contain_text("6 of 6 that match. They last 3 h together")
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
        press(tab, "acknowledge")
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
    axe = pytest.importorskip("axe_playwright_python")
    rules = (Path(axe.__file__).parent / "axe.min.js").read_text("utf-8")
    pages = ("runs", f"run?id={SHORT}", f"data?id={SHORT}", f"events?id={SHORT}")
    for path in (*pages, "compare", "processing", "log", "trends", "storage"):
        tab.goto(server.address + path)
        tab.wait_for_function("window.Bokeh && Bokeh.documents[0]?.is_idle")
        # Names of check boxes come within a second
        tab.wait_for_timeout(2500)
        tab.evaluate(rules)
        found = tab.evaluate("axe.run()")["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], path


def test_choices_of_targets(tab, server):
    tab.goto(f"{server.address}processing?runs={SHORT}")
    expect(part(tab, "targets")).to_be_hidden()
    choose(tab, "make", "data types as entered")
    press(tab, "dry_run")
    expect(part(tab, "result")).to_contain_text("name the data types to make")
