"""The dashboard without a mouse: what is on each page is reached with Tab, and used with keys."""

import re

import pytest
from dashboard_server import SHORT, bring_to, expect, part

from amstrax.rundb import documents

pytestmark = pytest.mark.slow


def test_one_run(page, server):
    page.goto(f"{server.address}run?id={SHORT}")
    expect(part(page, "data")).to_contain_text("For context xams.")
    bring_to(page, "context")
    select = part(page, "context").locator("select")
    for _ in range(select.locator("option").count()):
        if select.input_value() != "xams_led":
            page.keyboard.press("ArrowDown")
    expect(select).to_have_value("xams_led")
    expect(part(page, "data")).to_contain_text("For context xams_led.")
    page.wait_for_url(re.compile("context=xams_led"))
    bring_to(page, "document")
    page.keyboard.press("Enter")
    expect(part(page, "document").locator("pre")).to_be_visible()


def test_data(page, server):
    page.goto(f"{server.address}data?id={SHORT}")
    expect(part(page, "figures").locator(".bk-Figure")).to_have_count(7)
    bring_to(page, "log_counts")
    page.keyboard.press("Space")
    page.wait_for_url(re.compile("log_counts=1"))
    expect(part(page, "figures").locator(".bk-Figure")).to_have_count(7)
    expect(part(page, "loaded")).to_contain_text("events")


def test_events(page, server):
    page.goto(f"{server.address}events?id={SHORT}")
    text = part(page, "event_text")
    expect(text).to_contain_text("Event 0 (1 of")
    bring_to(page, "next")
    page.keyboard.press("Enter")
    expect(text).to_contain_text("Event 1 (2 of")
    bring_to(page, "event")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    expect(text).to_contain_text("Event 3 (4 of")


def test_processing(page, server, lab):
    page.goto(f"{server.address}processing?runs=9")
    expect(part(page, "by_status")).to_contain_text("no disk")
    bring_to(page, "tag_name")
    page.keyboard.type("by_keys")
    bring_to(page, "add_tag")
    page.keyboard.press("Enter")
    expect(part(page, "result")).to_contain_text("tagged")
    assert documents.tags_of(lab.runs.find_one({"number": 9})) == ["by_keys"]
    bring_to(page, "remove_tag")
    page.keyboard.press("Space")
    expect(part(page, "result")).to_contain_text("tag removed")
