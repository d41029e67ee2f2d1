"""Corrections over HTTP: copies on disk, and what happens when the server does not do its part."""

import gzip
import itertools
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from corrections_files import ELIFE, make_stale, publisher, raw_server

import amstrax
from amstrax import settings
from amstrax.corrections import store
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
    monkeypatch.setattr(store, "_unreachable", {})
    monkeypatch.setattr(store, "_warned", set())


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
    assert server.address in warning and "cached copies are used" in warning
    assert FAULTS.get(fault, "") in warning
    assert copy.read_bytes() == kept
    # When all is well again, so is the file
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "120")
    server.fault = ""
    store._unreachable.clear()
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


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


def for_ever(start, part, wait=0.01):
    """Return what sends `start`, and then `part` again and again."""

    def say(send):
        send(start)
        while True:
            send(part, wait)

    return say


def at_once(*parts):
    return lambda send: [send(part) for part in parts]


def bomb(send):
    body = gzip.compress(b"[" * (5 << 20))
    send(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


STORED_BLOCK = b"\x01\xff\xff\x00\x00"

# What the server says -> what is said of it; those of the first kind never end
ENDLESS = {
    "headers that drip": (for_ever(OK + b"X-A: ", b"a"), "no answer within 0.5 s"),
    "status that drips": (for_ever(b"HTTP/1.1 200 ", b"O"), "no answer within 0.5 s"),
    "100 Continue": (for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0), "no answer within 0.5 s"),
    "100 with headers": (
        for_ever(b"", b"HTTP/1.1 100 Continue\r\nX-A: b\r\n\r\n", 0.001),
        "no answer within 0.5 s",
    ),
    "body that drips": (for_ever(OK + b"\r\n{", b" "), "not complete within 0.5 s"),
    "chunks that drip": (
        for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        "not complete within 0.5 s",
    ),
    "trailers without end": (
        for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n"),
        "not complete within 0.5 s",
    ),
    "compressed body that drips": (
        # A block of 65535 bytes that are not compressed
        for_ever(
            OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10] + STORED_BLOCK, b" "
        ),
        "not complete within 0.5 s",
    ),
    "header without name that drips": (for_ever(OK + b"X", b"a"), "no answer within 0.5 s"),
}
ENDING = {
    "503 with a body that drips": (
        for_ever(b"HTTP/1.1 503 Busy\r\nContent-Length: 1000000\r\n\r\n", b"x", 0.1),
        "status 503",
    ),
    "503 with chunks that drip": (
        for_ever(b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.1),
        "status 503",
    ),
    "404 with a body that drips": (
        for_ever(b"HTTP/1.1 404 No\r\n\r\n", b"x", 0.1),
        "404|no correc",
    ),
    "redirect to itself": (
        at_once(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
        "refers to another address",
    ),
    "redirect to nonsense": (
        at_once(b"HTTP/1.1 301 Moved\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n"),
        "refers to another address",
    ),
    "redirect with endless body": (
        for_ever(b"HTTP/1.1 302 Found\r\nLocation: http://a.invalid\r\n\r\n", b"x" * 65536, 0),
        "refers to a.invalid",
    ),
    "header too long": (for_ever(OK + b"X-A: ", b"a" * 4096, 0), "LineTooLong"),
    "too many headers": (for_ever(OK, b"X-A: b\r\n", 0), "more than 100 headers"),
    "body too large": (for_ever(OK + b"\r\n", b" " * 65536, 0), "larger than 1000000 bytes"),
    "length too large": (
        for_ever(OK + b"Content-Length: 99999999999\r\n\r\n", b" " * 65536, 0),
        "larger than 1000000 bytes",
    ),
    "bomb": (bomb, "larger than 1000000 bytes"),
    "no HTTP": (at_once(b"SSH-2.0-OpenSSH_9.2\r\n"), "not HTTP"),
    "two lengths": (
        at_once(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
        "breaks off|no answer",
    ),
    "no gzip": (
        at_once(OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
        "breaks off",
    ),
    "nothing": (at_once(b""), "breaks off"),
    "NaN": (at_once(OK + b'Content-Length: 15\r\n\r\n{"000001": NaN}'), "NaN is no finite number"),
    "deep": (
        at_once(OK + b"Content-Length: 200000\r\n\r\n", b'{"000001":' + b"[" * 199990),
        "nested",
    ),
}


def no_threads_left():
    """Wait until no request goes on in the background."""
    while any(thread.name == "amstrax_corrections" for thread in threading.enumerate()):
        time.sleep(0.01)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", [*ENDLESS, *ENDING])
def test_whatever_a_server_says(what, monkeypatch, cache, caplog):
    """In time one error, or with a copy the copy, and one warning; and nothing goes on after."""
    say, words = (ENDLESS | ENDING)[what]
    text = json.dumps(ELIFE).encode()
    good = at_once(OK + b"Content-Length: %d\r\n\r\n" % len(text) + text)
    monkeypatch.setattr(store, "MAX_SIZE", 1_000_000)
    with raw_server(say) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", f"{address}/{{branch}}")
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "0.5" if what in ENDLESS else "120")
        with pytest.raises((CorrectionsUnreachable, CorrectionNotFound, InvalidCorrection)) as info:
            get()
        assert address in str(info.value) and re.search(words, str(info.value))
        no_threads_left()
        store._unreachable.clear()
        server.say = good
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "120")
        assert get() == ELIFE
        (copy,) = make_stale(cache)
        os.utime(copy, (time.time() - 9000,) * 2)
        server.say = say
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "0.5" if what in ENDLESS else "120")
        for _ in range(2):
            assert get() == ELIFE
        (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert re.search(words, warning) and "this one was validated 2.5 h ago" in warning
        no_threads_left()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("say", [for_ever(b"", b""), for_ever(b"\x16\x03\x03\x40\x00", b"\x02")])
def test_tls_that_never_begins(say, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "0.5")
    with raw_server(say, listen=False) as server:
        url = f"https://127.0.0.1:{server.server_address[1]}/{{branch}}"
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", url)
        with pytest.raises(CorrectionsUnreachable, match=r"no answer within 0.5 s"):
            get()
        no_threads_left()


@pytest.mark.timeout(60)
def test_name_server_that_does_not_answer(monkeypatch):
    """The library's look-up of names has no time-out, and cannot be interrupted."""
    answer = threading.Event()

    def look_up(*args, **kwargs):
        answer.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", "https://corrections.invalid/{branch}")
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "0.5")
    with pytest.raises(CorrectionsUnreachable, match=r"no answer within 0.5 s"):
        get()
    answer.set()
    no_threads_left()


@pytest.mark.parametrize("tag", [b'"a"\r\n "b"', b"\x0b", b'"' + b"a" * 9000 + b'"', b"\xe9"])
def test_tag_that_cannot_be_sent_back(tag, monkeypatch, cache, caplog):
    bodies = itertools.cycle([b'{"000001": 1}', b'{"000001": 2}'])

    def say(send):
        body = next(bodies)
        send(OK + b"ETag: " + tag + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with raw_server(say) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/{{branch}}"
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", url)
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "120")
        assert get() == {"000001": 1}
        make_stale(cache)
        assert get() == {"000001": 2}
    assert not caplog.records


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
