"""Corrections over HTTP: copies on disk, and what happens when the server does not do its part."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from corrections_files import ELIFE, make_stale, publisher

import amstrax
from amstrax import settings
from amstrax.corrections import published
from amstrax.exceptions import (
    AmstraxError,
    CorrectionNotFound,
    CorrectionsUnreachable,
    InvalidCorrection,
    InvalidOption,
)

ELIFE_PATH = "/master/elife/elife_v1.json"
OTHER = {"000001-000010": 5.0}
FAULTS = {
    "500": "status 500",
    "403": "status 403",
    "hangs up": "breaks off",
    "slow": "no answer within 0.3 s",
    "drips": " within 0.3 s",
    "truncated": "breaks off",
    "html": "text/html",
    "latin-1": "UTF-8",
    "elsewhere": "elsewhere.invalid",
}


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Forget what was said, and which servers could not be reached."""
    monkeypatch.setattr(published, "_unreachable", {})
    monkeypatch.setattr(published, "_warned", set())


@pytest.fixture
def server(monkeypatch):
    with publisher() as running:
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "120")
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", f"{running.address}/{{branch}}")
        running.files[ELIFE_PATH] = json.dumps(ELIFE)
        yield running


@pytest.fixture
def cache():
    return settings.corrections().cache


def get():
    return amstrax.get_correction("elife_v1.json")


def set_fault(server, monkeypatch, fault):
    server.fault = fault
    if fault in ("slow", "drips"):
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "0.3")


def test_a_file_is_had_once_and_asked_after_when_the_copy_is_old(server, cache):
    for _ in range(3):
        assert get() == ELIFE
    assert [path for path, _ in server.asked] == [ELIFE_PATH]
    (copy,) = make_stale(cache)
    assert get() == ELIFE
    assert len(server.asked) == 2
    assert server.asked[1][1]["If-None-Match"] == json.loads(copy.read_text())["etag"]
    # That it is still good is noted
    assert copy.stat().st_mtime > 1
    assert get() == ELIFE and len(server.asked) == 2


def test_what_has_changed_is_had_again(server, cache):
    assert get() == ELIFE
    server.files[ELIFE_PATH] = json.dumps(OTHER)
    assert get() == ELIFE
    make_stale(cache)
    assert get() == OTHER


def test_server_without_etag(server, cache):
    server.use_etag = False
    assert get() == ELIFE
    make_stale(cache)
    assert get() == ELIFE
    assert "If-Modified-Since" in server.asked[1][1]


def test_branches_are_kept_apart(server):
    server.files["/a/b/elife/elife_v1.json"] = json.dumps(OTHER)
    assert get() == ELIFE
    assert amstrax.get_correction("elife_v1.json", "a/b") == OTHER
    assert get() == ELIFE
    with pytest.raises(CorrectionNotFound, match="branch nowhere"):
        amstrax.get_correction("elife_v1.json", branch="nowhere")


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_fault_without_a_copy(server, cache, monkeypatch, fault):
    set_fault(server, monkeypatch, fault)
    with pytest.raises(CorrectionsUnreachable) as info:
        get()
    for text in (ELIFE_PATH, FAULTS[fault], str(cache), "AMSTRAX_CORRECTIONS_FOLDER"):
        assert text in str(info.value)
    assert isinstance(info.value, ConnectionError)
    assert not list(cache.rglob("*.*"))
    # What is overloaded or has failed is asked again, and nothing else
    assert len(server.asked) == (3 if fault == "500" else 1)


@pytest.mark.parametrize("fault", [*sorted(FAULTS), "404", "truncated without length"])
def test_fault_with_a_copy(server, cache, monkeypatch, caplog, fault):
    assert get() == ELIFE
    (copy,) = make_stale(cache)
    kept = copy.read_bytes()
    server.files[ELIFE_PATH] = json.dumps(OTHER)
    set_fault(server, monkeypatch, fault)
    for _ in range(2):
        assert get() == ELIFE
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert server.address in warning and "copies that are kept are used" in warning
    assert FAULTS.get(fault, "") in warning
    assert copy.read_bytes() == kept
    # When all is well again, so is the file
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "120")
    server.fault = ""
    published._unreachable.clear()
    assert get() == OTHER


def test_answer_cut_without_a_word_is_not_kept(server, cache):
    server.fault = "truncated without length"
    with pytest.raises(InvalidCorrection, match=r"elife_v1.json, line 1, column"):
        get()
    assert not list(cache.rglob("*.copy"))
    server.fault = ""
    assert get() == ELIFE


def test_no_such_file(server, cache):
    with pytest.raises(CorrectionNotFound, match=r"elife_v7.json.*127.0.0.1.*check its name"):
        amstrax.get_correction("elife_v7.json")
    assert not list(cache.rglob("*.*"))


def test_malformed_file_as_published(server, shared):
    name = "gain_to_pe_array_v1.json"
    text = (shared / "data/corrections/gain_to_pe_array" / name).read_text(encoding="utf-8")
    server.files[f"/master/gain_to_pe_array/{name}"] = text
    with pytest.raises(InvalidCorrection, match=rf"{server.address}.*{name}, line 18, column 21"):
        amstrax.get_correction(name)
    assert get() == ELIFE


@pytest.fixture
def closed_port():
    """A port of this machine that nobody answers at, and nobody else gets."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_no_network_without_copies(closed_port, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", f"http://127.0.0.1:{closed_port}/{{branch}}")
    with pytest.raises(CorrectionsUnreachable, match="no connection"):
        get()


def test_no_network_with_copies_is_one_warning(monkeypatch, caplog):
    """For all files together, and the server is not asked for each."""
    names = [f"elife_v{i}.json" for i in range(3)]
    with publisher() as server:
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "120")
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", f"{server.address}/{{branch}}")
        for name in names:
            server.files[f"/master/elife/{name}"] = json.dumps({"000001": name})
            assert amstrax.get_correction(name) == {"000001": name}
    make_stale(settings.corrections().cache)
    for name in names:
        assert amstrax.get_correction(name) == {"000001": name}
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "no connection" in warning
    with pytest.raises(CorrectionsUnreachable):
        amstrax.get_correction("elife_v9.json")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"url": 1}', "half"])
def test_damaged_copy_is_had_again(server, cache, damage):
    assert get() == ELIFE
    (copy,) = cache.rglob("*.copy")
    text = copy.read_text()
    copy.write_text(text.replace("1000.0", "1001.0") if damage == "half" else damage)
    assert get() == ELIFE
    assert len(server.asked) == 2
    assert copy.read_text() == text


def test_cache_that_cannot_be_written(server, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        assert get() == ELIFE
    warnings = [r for r in caplog.records if "no copies of corrections can be kept" in r.message]
    assert len(warnings) == 1


def test_nobody_sees_half_a_copy(server, cache):
    """Several at once, while the file changes: each gets one of its versions, and none stays."""
    texts = [json.dumps({f"{i:06d}": list(range(2000))}) for i in range(8)]
    server.files[ELIFE_PATH] = texts[0]
    seen, failed = [], []

    def ask():
        try:
            for i in range(8):
                server.files[ELIFE_PATH] = texts[i]
                make_stale(cache)
                seen.append(json.dumps(get()))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(seen) == 32 and set(seen) <= set(texts)
    assert len(list(cache.rglob("*.*"))) == 1


def test_other_processes_use_the_copy(server, cache):
    get()
    code = "import amstrax; print(amstrax.get_correction('elife_v1.json'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == str(ELIFE)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.invalid/{branch}", "https://"),
        ("ftp://example.invalid/{branch}", "https://"),
        ("example.invalid/{branch}", "https://"),
        ("https:///{branch}", "https://"),
        ("https://example.invalid/{branch}?token=abc", "https://"),
    ],
)
def test_addresses_that_make_no_sense(monkeypatch, url, says):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", url)
    with pytest.raises(InvalidOption, match="AMSTRAX_CORRECTIONS_URL") as info:
        get()
    assert says in str(info.value)


def test_password_in_the_address_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", "https://me:secret@example.invalid/{branch}")
    with pytest.raises(InvalidOption) as info:
        get()
    assert "secret" not in str(info.value) and "netrc" in str(info.value)


def test_address_without_branch_is_for_master(server, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", f"{server.address}/master")
    assert get() == ELIFE
    with pytest.raises(InvalidOption, match=r"\{branch\}.*'other'"):
        amstrax.get_correction("elife_v1.json", "other")


@pytest.mark.parametrize("branch", ["", "../x", "a b", "a?b", "/a"])
def test_what_is_no_branch(server, branch):
    with pytest.raises(AmstraxError, match="branch"):
        amstrax.get_correction("elife_v1.json", branch)
    assert not server.asked


def test_copies_are_kept_where_caches_of_the_user_are(monkeypatch):
    monkeypatch.delenv("AMSTRAX_CORRECTIONS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert settings.corrections().cache == Path("/caches/amstrax/corrections")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert settings.corrections().cache == Path(os.path.expanduser("~/.cache/amstrax/corrections"))
