"""Alarms: their causes, and messages to a real SMTP server and a webhook."""

import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from amstrax.auto_processing import alarms, loop
from amstrax.exceptions import InvalidOption
from amstrax.rundb import transfer
from amstrax.rundb.embedded import LocalClient

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def runs(tmp_path):
    return LocalClient(tmp_path / "rundb.sqlite")["run"]["runs_gas"]


def _add(runs, number: int, status: str, minute: int) -> None:
    begun = NOW + (minute - 60) * MINUTE
    state = {"status": status, "time": begun, "reason": "no disk"}
    document = {"number": number, "start": begun, "end": begun, "processing_status": state}
    transfer.add_run(runs, document)


def test_causes(runs, tmp_path, monkeypatch):
    def names(**options) -> list[str]:
        found = alarms.find_causes("xams", runs, [tmp_path], now=NOW, **options)
        return [cause.name for cause in found]

    monkeypatch.setenv("AMSTRAX_ALARM_DISK", "0")
    assert names() == []
    monkeypatch.setenv("AMSTRAX_ALARM_FAILURES", "0")
    assert names() == []
    monkeypatch.delenv("AMSTRAX_ALARM_FAILURES")
    for number in range(1, 4):
        _add(runs, number, "failed", number)
    assert names() == ["xams: jobs"]
    # One that is done later ends it
    _add(runs, 4, "done", 4)
    assert names() == []
    monkeypatch.setenv("AMSTRAX_ALARM_NO_RUN", "0.5")
    assert names() == ["xams: no run"]
    monkeypatch.setenv("AMSTRAX_ALARM_DISK", "100")
    assert names() == ["xams: no run", f"xams: disk {tmp_path}"]
    monkeypatch.setenv("AMSTRAX_ALARM_DISK", "few")
    with pytest.raises(InvalidOption, match="AMSTRAX_ALARM_DISK is 'few'"):
        names()


def test_a_silent_loop_is_a_cause(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("AMSTRAX_ALARM_DISK", "0")
    status = tmp_path / "status.json"

    def found(minutes: int) -> list[alarms.Cause]:
        later = datetime.now(UTC) + minutes * MINUTE
        return alarms.find_causes("xams", runs, [], status, later)

    assert found(60) == []
    loop.write_status(status, {"state": "at work"})
    assert found(1) == []
    assert "has said nothing for 60 minutes" in found(60)[0].text
    loop.write_status(status, {"state": "ended"})
    assert found(60) == []


class _Webhook(HTTPServer):
    """A server that keeps what is posted to it."""

    def __init__(self, status: int = 200):
        posted = self.posted = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posted.append(json.loads(body)["text"])
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server_port}/hooks/hush-hush"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


def test_a_cause_is_sent_once_an_hour(tmp_path, monkeypatch):
    controllers = pytest.importorskip("aiosmtpd.controller")
    mails = []

    class Handler:
        async def handle_DATA(self, server, session, envelope):
            mails.append((envelope.rcpt_tos, envelope.content.decode()))
            return "250 OK"

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mail = controllers.Controller(Handler(), hostname="127.0.0.1", port=port)
    mail.start()
    webhook = _Webhook()
    try:
        monkeypatch.setenv("AMSTRAX_ALARM_SMTP", f"127.0.0.1:{port}")
        monkeypatch.setenv("AMSTRAX_ALARM_MAIL", "ann@example.org, bob@example.org")
        monkeypatch.setenv("AMSTRAX_ALARM_WEBHOOK", webhook.address)
        # Two tools that share the file
        ours, others = (alarms.Alarms(tmp_path / "alarms.json") for _ in range(2))
        jobs = alarms.Cause("xams: jobs", "the last 3 jobs failed")
        assert [alarm.text for alarm in ours.update([jobs], "xams", NOW)] == [jobs.text]
        others.update([jobs], "xams", NOW + 30 * MINUTE)
        # Over, and back again
        assert ours.update([], "xams", NOW + 40 * MINUTE) == []
        ours.update([jobs], "xams", NOW + 50 * MINUTE)
        assert webhook.posted == ["amstrax: the last 3 jobs failed"]
        assert mails[0][0] == ["ann@example.org", "bob@example.org"]
        assert "Subject: amstrax: the last 3 jobs failed" in mails[0][1]
        assert len(mails) == 1
        others.update([jobs], "xams", NOW + 61 * MINUTE)
        assert len(webhook.posted) == len(mails) == 2
        # Another cause is another message
        ours.update([jobs, alarms.Cause("xams: disk", "full")], "xams", NOW + 62 * MINUTE)
        assert webhook.posted[2:] == ["amstrax: full"]
        ours.acknowledge("xams: jobs", "ann")
        assert [alarm.name for alarm in others.shown("xams")] == ["xams: disk"]
        others.update([jobs], "xams", NOW + 200 * MINUTE)
        assert len(webhook.posted) == 3
        # Those of another detector stay
        ours.update([], "xamsl", NOW + 200 * MINUTE)
        assert [alarm.name for alarm in ours.shown("xams")] == []
        # A cause that was over is a new one
        ours.update([], "xams", NOW + 201 * MINUTE)
        assert [alarm.name for alarm in ours.update([jobs], "xams", NOW + 300 * MINUTE)] == [
            "xams: jobs"
        ]
    finally:
        mail.stop()
        webhook.stop()


def test_a_message_that_cannot_be_sent_is_logged_without_secret(monkeypatch, caplog):
    webhook = _Webhook(500)
    monkeypatch.setenv("AMSTRAX_ALARM_SMTP", "127.0.0.1:1")
    monkeypatch.setenv("AMSTRAX_ALARM_MAIL", "ann@example.org")
    monkeypatch.setenv("AMSTRAX_ALARM_WEBHOOK", webhook.address)
    try:
        alarms.send(["full"])
    finally:
        webhook.stop()
    assert "through 127.0.0.1:1" in caplog.text and "takes no alarm" in caplog.text
    assert "hush-hush" not in caplog.text
