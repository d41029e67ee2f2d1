"""Alarms: their causes, and messages to real servers of mail and webhooks."""

import json
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.pool import ThreadPool

import pytest
from reverse_proxy import make_certificate

from amstrax.auto_processing import alarms, loop
from amstrax.exceptions import InvalidOption
from amstrax.rundb import connection, get_mongo_collection, transfer
from amstrax.rundb.embedded import LocalClient

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
JOBS = "xams: jobs"
FAILED = {JOBS: "the last 3 jobs failed"}
PASSWORD = "correct-horse"


@pytest.fixture(autouse=True)
def no_disk_is_full(monkeypatch):
    monkeypatch.setenv("AMSTRAX_ALARM_DISK", "0")
    monkeypatch.setattr(alarms, "_logged", {})


@pytest.fixture
def runs(tmp_path):
    return LocalClient(tmp_path / "rundb.sqlite")["run"]["runs_gas"]


@pytest.fixture
def find(runs, tmp_path):
    """Find causes, and return their texts by name."""

    def find(files=None, now=NOW, folder=tmp_path, collection=runs) -> dict[str, str]:
        trends = runs.database["trends_gas"]
        found = alarms.find_causes(
            "xams", lambda: collection, lambda: trends, lambda: [folder], files or {}, now
        )
        find.states = found
        return {name: text for name, text in found.items() if text is not None}

    return find


def _add(runs, number: int, status: str, minute: int, **fields) -> None:
    begun = NOW + (minute - 60) * MINUTE
    state = {"status": status, "time": begun, "reason": "no disk"}
    document = {"number": number, "start": begun, "end": begun, "processing_status": state}
    transfer.add_run(runs, document | fields)


def test_failing_jobs(runs, find, monkeypatch):
    assert find() == {} and find.states[JOBS] is None
    for number in range(1, 4):
        _add(runs, number, "failed", number)
    assert "(runs 000003, 000002, 000001): no disk" in find()[JOBS]
    monkeypatch.setenv("AMSTRAX_ALARM_FAILURES", "0")
    assert find() == {}
    monkeypatch.delenv("AMSTRAX_ALARM_FAILURES")
    # A cancelled job is no failure, and does not end them
    _add(runs, 4, "failed", 4, processing_job={"cancelled_by": "ann"})
    assert list(find()) == [JOBS]
    _add(runs, 5, "done", 5)
    assert find() == {}


def test_no_run(runs, find, monkeypatch):
    monkeypatch.setenv("AMSTRAX_ALARM_NO_RUN", "0.5")
    assert find() == {}
    _add(runs, 1, "done", 0)
    assert find() == {"xams: no run": "no run of xams has begun since 2026-03-01 11:00 UTC"}
    _add(runs, 2, "done", 40)
    assert find() == {}


def test_full_disk(find, tmp_path, monkeypatch):
    monkeypatch.setenv("AMSTRAX_HOST", "stbc")
    monkeypatch.setenv("AMSTRAX_ALARM_DISK", "100")
    name = f"xams: disk stbc {tmp_path}"
    assert f"of the disk of {tmp_path} is free" in find()[name]
    # A disk that is not mounted is no disk with space
    assert find(folder=tmp_path / "gone") == {} and name not in find.states


def test_trends_beyond_limits(runs, find):
    trends = runs.database["trends_gas"]
    assert find() == {}

    def add(number: int, flags: list[str], **values: float) -> None:
        row = {"name": f"{number:06d}", "number": number, "lineage": "abc", "values": values}
        connection.save_trend(trends, row | {"flags": flags, "time": NOW, "is_flagged": True})

    add(7, ["elife 20 is below 300 ns"], elife=20.0, s1_rate=4.0)
    add(8, [], s1_rate=5.0)
    text = "trends of xams, run 000007: elife 20 is below 300 ns"
    assert find() == {"xams: trend elife": text}
    assert find.states["xams: trend s1_rate"] is None
    add(9, ["elife_error 5 is above 4 ns"], elife=400.0, elife_error=5.0)
    assert list(find()) == ["xams: trend elife_error"]
    # Whoever wrote such a row
    row = {"name": "10", "number": 10, "lineage": "", "time": NOW, "values": ["x"], "flags": None}
    connection.save_trend(trends, row)
    assert list(find()) == ["xams: trend elife_error"]


def test_a_silent_loop(find, tmp_path):
    status = tmp_path / "status.json"

    def text(minutes: int) -> str | None:
        return find({"xamsl": status}, datetime.now(UTC) + minutes * MINUTE).get("xamsl: loop")

    assert text(60) is None and "xamsl: loop" not in find.states
    loop.write_status(status, {"state": "at work"})
    assert text(1) is None and find.states["xamsl: loop"] is None
    assert "automatic processing of xamsl has said nothing since" in text(60)
    loop.write_status(status, {"state": "at work", "pause": 3600})
    assert text(60) is None and text(200)
    loop.write_status(status, {"state": "ended", "ended_by": "SIGTERM"})
    assert text(60) is None
    loop.write_status(status, {"state": "ended", "ended_by": "no space left"})
    assert text(1).endswith("UTC: no space left")
    loop.write_status(status, {"state": "ended", "ended_by": "given up", "run_id": "7"})
    assert text(1) is None
    status.write_text("{}")
    assert "remove it" in find({"xamsl": status})["xams: settings"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AMSTRAX_ALARM_DISK", "few", "AMSTRAX_ALARM_DISK is 'few'"),
        ("AMSTRAX_ALARM_DISK", "101", "from 0 to 100"),
        ("AMSTRAX_ALARM_FAILURES", "nan", "AMSTRAX_ALARM_FAILURES is 'nan'"),
        ("AMSTRAX_ALARM_NO_RUN", "-1", "AMSTRAX_ALARM_NO_RUN is '-1'"),
        ("AMSTRAX_ALARM_SMTP", "mail:port", "write HOST:PORT"),
        ("AMSTRAX_ALARM_SMTP", ":25", "write HOST:PORT"),
        ("AMSTRAX_ALARM_SMTP_USER", "me", "set both, or none"),
        ("AMSTRAX_ALARM_MAIL", "ann", "'ann' is no address of mail"),
        ("AMSTRAX_ALARM_WEBHOOK", "file:///hush-hush", "begin it with https://"),
    ],
)
def test_wrong_settings_are_an_alarm_and_stop_no_other(runs, find, monkeypatch, name, value, said):
    for number in range(1, 4):
        _add(runs, number, "failed", number)
    monkeypatch.setenv(name, value)
    found = find()
    assert said in found["xams: settings"] and "hush-hush" not in str(found)
    assert list(found) == ([JOBS] * (name != "AMSTRAX_ALARM_FAILURES")) + ["xams: settings"]


def test_a_file_is_no_webhook(monkeypatch, tmp_path):
    """It would take everything, so alarms would count as sent."""
    (tmp_path / "hook").touch()
    monkeypatch.setenv("AMSTRAX_ALARM_WEBHOOK", (tmp_path / "hook").as_uri())
    with pytest.raises(InvalidOption, match="begin it with https://"):
        alarms.post(["text"])


def test_run_database_away(find, tmp_path):
    gone = LocalClient(tmp_path / "other/rundb.sqlite")["run"]["runs_gas"]
    gone.insert_one({"number": 1})
    shutil.rmtree(tmp_path / "other")
    found = find(collection=gone)
    assert list(found) == ["xams: run database"]
    # What is not known stays as it is
    assert JOBS not in find.states and "xams: no run" not in find.states


def test_tunnel_down_and_up_again(mongo_collection, mongo_server, ssh_server, find, monkeypatch):
    # So long it waits
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")
    runs = get_mongo_collection("xams")
    assert find(collection=runs) == {} and find.states["xams: tunnel"] is None
    ssh_server.kill()
    try:
        found = find(collection=runs)
        assert list(found) == ["xams: tunnel"] and "is down" in found["xams: tunnel"]
        assert PASSWORD not in str(found)
    finally:
        ssh_server.start()
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "120")
    assert find(collection=get_mongo_collection("xams")) == {}
    assert find.states["xams: tunnel"] is None
    # The tunnel is there, and the database is not
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")
    runs = get_mongo_collection("xams")
    runs.find_one({})
    mongo_server.kill()
    try:
        assert list(find(collection=runs)) == ["xams: run database"]
        assert find.states["xams: tunnel"] is None
    finally:
        mongo_server.start()


class Webhook(ThreadingHTTPServer):
    """A server that keeps what is posted to it, and answers with a status when it may."""

    daemon_threads = True

    def __init__(self, status: int = 200):
        self.posted: list[str] = []
        self.visited: list[str] = []
        self.status, self.location = status, ""
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.was_asked = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = server.status
                server.was_asked.set()
                server.may_answer.wait(60)
                assert self.headers["Content-Type"] == "application/json"
                if status == 200:
                    server.posted.append(json.loads(body)["text"])
                self.send_response(status)
                if server.location:
                    self.send_header("Location", server.location)
                self.end_headers()

            def do_GET(self):
                server.visited.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server_port}/hooks/hush-hush"

    def stop(self) -> None:
        self.may_answer.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def webhook(monkeypatch):
    server = Webhook()
    monkeypatch.setenv("AMSTRAX_ALARM_WEBHOOK", server.address)
    yield server
    server.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def mail_server(monkeypatch, tmp_path):
    """Start a server of mail, which keeps mails in its list; all end with the test."""
    controllers = pytest.importorskip("aiosmtpd.controller")
    from aiosmtpd.smtp import AuthResult

    started = []

    def start(tls=None, mails=None, port=None, **options):
        mails = [] if mails is None else mails

        class Handler:
            async def handle_DATA(self, server, session, envelope):
                text = envelope.content.decode()
                mails.append((envelope.rcpt_tos, text, session.ssl is not None, session.auth_data))
                return "250 OK"

        def check(server, session, envelope, mechanism, data):
            is_right = data.login == b"me@example.org" and data.password == PASSWORD.encode()
            return AuthResult(success=is_right, auth_data=data.login, handled=is_right)

        port = port or _free_port()
        options |= {"hostname": "127.0.0.1", "port": port, "tls_context": tls}
        server = controllers.Controller(Handler(), authenticator=check, **options)
        server.start()
        started.append(server)
        monkeypatch.setenv("AMSTRAX_ALARM_SMTP", f"127.0.0.1:{port}")
        monkeypatch.setenv("AMSTRAX_ALARM_MAIL", "ann@example.org, bob@example.org")
        return mails

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def tls(tmp_path):
    """A certificate, and the context of a server that has it."""
    files = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return files, context


@pytest.fixture
def known(tmp_path):
    """Alarms of a tool; each call returns another tool, which shares the file."""

    def make() -> alarms.Alarms:
        return alarms.Alarms(tmp_path / "state/alarms.json")

    return make


def _update(known: alarms.Alarms, found: alarms.Found, minutes: int = 0) -> list[str]:
    """Update the alarms, wait until all is sent, and return the names of those to show."""
    shown = known.update(found, "xams", NOW + minutes * MINUTE)
    known.finish()
    return [alarm.name for alarm in shown]


def test_a_cause_is_sent_once_an_hour(known, webhook, mail_server):
    mails = mail_server()
    ours, others = known(), known()
    assert _update(ours, FAILED) == [JOBS]
    _update(others, FAILED, 30)
    # Over, and back again
    assert _update(ours, {JOBS: None}, 40) == []
    assert _update(ours, FAILED, 50) == [JOBS]
    assert webhook.posted == ["amstrax: the last 3 jobs failed"]
    assert mails[0][0] == ["ann@example.org", "bob@example.org"] and len(mails) == 1
    assert "Subject: amstrax: the last 3 jobs failed" in mails[0][1]
    _update(others, FAILED, 61)
    assert len(webhook.posted) == len(mails) == 2
    # Several causes, of which one is new
    _update(ours, {**FAILED, "xams: disk": "full", "xamsl: disk": "full, too"}, 62)
    assert webhook.posted[2:] == ["amstrax: full\namstrax: full, too"]
    ours.acknowledge(JOBS, "ann")
    assert [alarm.name for alarm in others.shown("xams")] == ["xams: disk"]
    _update(others, FAILED, 200)
    # Nobody has looked for the others since
    assert len(webhook.posted) == 3
    # A cause that was over is a new one
    _update(ours, {JOBS: None}, 201)
    shown = known().update(FAILED, "xams", NOW + 300 * MINUTE)
    assert [alarm.since for alarm in shown if alarm.name == JOBS] == [NOW + 300 * MINUTE]
    # Nobody looks for it any more, as after a change of the settings
    assert _update(ours, {}, 300 + 25 * 60) == []


def test_what_is_not_known_stays_and_is_not_repeated(known, webhook):
    _update(known(), FAILED)
    for minutes in (30, 70, 130):
        assert _update(known(), {"xams: run database": "away"}, minutes) == [
            *(JOBS, "xams: run database")
        ]
    assert webhook.posted.count("amstrax: the last 3 jobs failed") == 1
    _update(known(), FAILED, 140)
    assert webhook.posted.count("amstrax: the last 3 jobs failed") == 2


def test_a_message_that_fails_is_sent_later(known, webhook, mail_server, monkeypatch, caplog):
    webhook.status = 500
    mails = mail_server()
    port = os.environ["AMSTRAX_ALARM_SMTP"].partition(":")[2]
    _update(known(), FAILED)
    assert len(mails) == 1 and webhook.posted == []
    _update(known(), FAILED, 1)
    assert caplog.text.count("no alarm was sent by webhook: the webhook answers 500") == 1
    webhook.status = 200
    _update(known(), FAILED, 2)
    # The mail had arrived
    assert len(mails) == len(webhook.posted) == 1
    monkeypatch.setenv("AMSTRAX_ALARM_SMTP", "127.0.0.1:1")
    _update(known(), FAILED, 70)
    assert "no alarm was sent by mail: Connection refused" in caplog.text
    assert len(mails) == 1 and len(webhook.posted) == 2
    monkeypatch.setenv("AMSTRAX_ALARM_SMTP", f"127.0.0.1:{port}")
    _update(known(), FAILED, 71)
    assert len(mails) == len(webhook.posted) == 2
    assert "hush-hush" not in caplog.text


def test_a_webhook_that_hangs_holds_nobody(known, webhook, mail_server):
    mails = mail_server()
    webhook.may_answer.clear()
    ours, others = known(), known()
    # They return although it has not answered
    ours.update(FAILED, "xams", NOW)
    assert webhook.was_asked.wait(60)
    assert [alarm.name for alarm in others.update(FAILED, "xams", NOW + MINUTE)] == [JOBS]
    others.acknowledge("xams: other", "ann")
    webhook.may_answer.set()
    ours.finish()
    others.finish()
    assert len(webhook.posted) == len(mails) == 1


def test_a_webhook_that_never_answers_is_tried_again(known, webhook, monkeypatch, caplog):
    monkeypatch.setattr(alarms, "_TIMEOUT", 0.2)
    webhook.may_answer.clear()
    ours = known()
    ours.update(FAILED, "xams", NOW)
    ours.finish(60)
    assert "no alarm was sent by webhook" in caplog.text
    monkeypatch.setattr(alarms, "_TIMEOUT", 60)
    webhook.may_answer.set()
    _update(known(), FAILED, 1)
    # What it was asked first, it may take too late
    assert set(webhook.posted) == {"amstrax: the last 3 jobs failed"}


def test_redirects_are_not_followed(known, webhook, caplog):
    elsewhere = Webhook()
    try:
        for status in (301, 302, 303, 307, 308):
            webhook.status, webhook.location = status, f"{elsewhere.address}/next"
            _update(known(), FAILED)
            assert f"answers {status}, a redirect" in caplog.text
        assert elsewhere.posted == elsewhere.visited == []
        assert "hush-hush" not in caplog.text
        webhook.status = 200
        _update(known(), FAILED, 1)
        assert len(webhook.posted) == 1
    finally:
        elsewhere.stop()


_SEND = """
import sys
from datetime import datetime
from pathlib import Path
from amstrax.auto_processing import alarms
known = alarms.Alarms(Path(sys.argv[1]))
known.update({"xams: jobs": "the last 3 jobs failed"}, "xams", datetime.fromisoformat(sys.argv[2]))
known.finish()
"""


def _send(folder, minutes: int = 0) -> subprocess.Popen:
    path, now = str(folder / "state/alarms.json"), (NOW + minutes * MINUTE).isoformat()
    return subprocess.Popen([sys.executable, "-c", _SEND, path, now])


def test_a_process_that_is_killed_loses_no_message(tmp_path, known, webhook):
    webhook.may_answer.clear()
    webhook.status = 500
    first = _send(tmp_path)
    assert webhook.was_asked.wait(120)
    first.send_signal(signal.SIGKILL)
    first.wait()
    webhook.may_answer.set()
    webhook.status = 200
    _update(known(), FAILED, 1)
    assert webhook.posted == ["amstrax: the last 3 jobs failed"]


def test_processes_at_once_send_one_message(tmp_path, webhook):
    tools = [_send(tmp_path) for _ in range(4)]
    assert [tool.wait(300) for tool in tools] == [0] * 4
    assert webhook.posted == ["amstrax: the last 3 jobs failed"]


def test_log_in_over_tls(known, mail_server, tls, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    files, context = tls
    mails = mail_server(context, require_starttls=True, auth_require_tls=True)
    # Servers of mail without log-in take any certificate, as among themselves
    _update(known(), FAILED)
    assert [mail[2:] for mail in mails] == [(True, None)]
    monkeypatch.setenv("AMSTRAX_ALARM_SMTP_USER", "me@example.org")
    monkeypatch.setenv("AMSTRAX_ALARM_SMTP_PASSWORD", PASSWORD)
    _update(known(), FAILED, 61)
    assert len(mails) == 1 and "certificate verify failed" in caplog.text
    monkeypatch.setenv("SSL_CERT_FILE", str(files.certificate))
    _update(known(), FAILED, 62)
    assert mails[1][2:] == (True, b"me@example.org") and "From: me@example.org" in mails[1][1]
    monkeypatch.setenv("AMSTRAX_ALARM_SMTP_PASSWORD", "wrong-horse")
    _update(known(), FAILED, 130)
    assert "no alarm was sent by mail: SMTPAuthenticationError, code 535" in caplog.text
    # Neither is sent where it could be read
    mail_server(mails=mails, auth_require_tls=False)
    _update(known(), FAILED, 200)
    assert "offers no STARTTLS" in caplog.text and len(mails) == 2
    assert "-horse" not in caplog.text


def test_odd_texts(known, webhook, mail_server):
    mails = mail_server()
    odd = "a\nSubject: b\r\n\x0b\ud800 <!channel> & é" + "x" * 600
    _update(known(), {JOBS: odd})
    [text] = webhook.posted
    assert text.startswith("amstrax: a Subject: b ? &lt;!channel&gt; &amp; é") and len(text) < 550
    [mail] = mails
    assert mail[1].count("\nSubject:") == 0 and mail[1].count("Subject:") >= 1


def test_damaged_and_unwritable_files(known, webhook, tmp_path, caplog):
    path = tmp_path / "state/alarms.json"
    path.parent.mkdir()
    good = {"text": "x", "since": NOW.isoformat(), "seen": NOW.isoformat(), "is_over": False}
    damaged = ["", "[]", "{", '{"a": 1}', json.dumps({"a": good}), json.dumps({"a": {"sent": {}}})]
    damaged += [json.dumps({"a": {**good, "sent": {"mail": "2026-01-01"}}})]
    for text in damaged:
        path.write_text(text)
        assert known().shown("xams") == []
    path.write_bytes(b"\xff")
    assert known().shown("xams") == []
    assert "is damaged" in caplog.text
    # As on a full disk: this process keeps the alarms itself
    path.unlink()
    path.with_suffix(".lock").unlink()
    path.parent.rmdir()
    path.parent.write_text("no folder")
    _update(known(), FAILED)
    _update(known(), FAILED, 1)
    known().acknowledge("xams: other", "ann")
    assert [alarm.name for alarm in known().shown("xams")] == [JOBS]
    assert caplog.text.count("alarms.json cannot be written (") == 1
    path.parent.unlink()
    _update(known(), FAILED, 2)
    assert json.loads(path.read_text())[JOBS]["text"] == FAILED[JOBS]
    assert webhook.posted == ["amstrax: the last 3 jobs failed"]


def test_threads_share_the_file(known):
    """Many updates at once lose none."""
    with ThreadPool(8) as pool:
        pool.map(lambda n: known().update({f"xams: {n:03d}": "x"}, "xams", NOW), range(64))
    assert len(known().shown("xams")) == 64


def test_the_loop_sends_without_a_dashboard(tmp_path, runs, webhook, monkeypatch):
    for number in range(1, 4):
        _add(runs, number, "failed", number, processing_failed=9)
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(tmp_path / "rundb.sqlite"))
    (tmp_path / "logs").mkdir()
    silent = tmp_path / "logs/auto_processing_xamsl.json"
    loop.write_status(silent, {"state": "at work"})
    content = json.loads(silent.read_text()) | {"time": NOW.isoformat()}
    silent.write_text(json.dumps(content))
    command = [sys.executable, "-m", "amstrax.auto_processing.auto_processing", "--once"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=480
    )
    assert done.returncode == 0, done.stderr
    [text] = webhook.posted
    assert "the last 3 jobs of xams failed" in text
    assert "automatic processing of xamsl has said nothing since 2026-03-01 12:00 UTC" in text
