"""Passwords and log-ins, and what is written on pages, without a server."""

from datetime import UTC, datetime

import pytest

from amstrax.dashboard import render
from amstrax.dashboard.logins import LIFETIME, PAUSE, Logins, PasswordFile
from amstrax.exceptions import InvalidOption


@pytest.fixture
def passwords(tmp_path, monkeypatch):
    """A file with the password of ann; hashed quickly."""
    import bcrypt

    salt = bcrypt.gensalt
    monkeypatch.setattr(bcrypt, "gensalt", lambda: salt(4))
    file = PasswordFile(tmp_path / "below/users")
    file.set("ann", "password of ann")
    return file


def test_the_file_of_users(passwords):
    passwords.set("bob", "ünïcödë of bob")
    assert passwords.is_right("ann", "password of ann")
    assert passwords.is_right("bob", "ünïcödë of bob")
    for name, password in (("ann", ""), ("ann", "x" * 100), ("carol", "password of ann"), ("", "")):
        assert not passwords.is_right(name, password)
    passwords.set("ann", "another password")
    assert not passwords.is_right("ann", "password of ann")
    assert passwords.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in passwords.path.parent.iterdir()] == ["users"]
    assert "password" not in passwords.path.read_text()


def test_wrong_files_names_and_passwords(passwords):
    for name, password in (("a:b", "long enough"), ("", "long enough"), ("a\nb", "long enough")):
        with pytest.raises(InvalidOption, match="cannot be the name"):
            passwords.set(name, password)
    for password in ("short", "µ" * 40):
        with pytest.raises(InvalidOption, match="a password has"):
            passwords.set("ann", password)
    passwords.path.write_text("ann:plain text\n")
    with pytest.raises(InvalidOption, match="line 1 is not NAME:HASH") as error:
        passwords.read()
    assert "plain text" not in str(error.value)
    passwords.path.chmod(0o644)
    with pytest.raises(InvalidOption, match="chmod 600"):
        passwords.read()
    with pytest.raises(InvalidOption, match="--set-password"):
        PasswordFile(passwords.path.with_name("none")).read()


def test_logins_end(passwords):
    now = [0.0]
    logins = Logins(passwords, lambda: now[0])
    secret = logins.log_in("ann", "password of ann")
    login = logins.find(secret)
    assert login.user == "ann" and logins.is_valid(login.number) and login.number != secret
    assert logins.find("x") is None and not logins.is_valid("x")
    other = logins.find(logins.log_in("ann", "password of ann"))
    logins.log_out(secret)
    assert logins.find(secret) is None and not logins.is_valid(login.number)
    assert logins.is_valid(other.number)
    now[0] += LIFETIME
    assert not logins.is_valid(other.number)


def test_who_guesses_waits(passwords):
    now = [0.0]
    logins = Logins(passwords, lambda: now[0])
    for _ in range(5):
        assert logins.wait("ann") == 0
        assert logins.log_in("ann", "wrong") is None
    assert logins.wait("ann") == PAUSE and logins.wait("bob") == 0
    now[0] += PAUSE
    assert logins.wait("ann") == 0
    assert logins.log_in("ann", "password of ann")


def test_everything_is_escaped():
    bad = "<script>alert(1)</script>\"'&"
    for name in ("message.html", "result.html", "log.html"):
        values = {"troubles": [bad], "problem": bad, "rows": [], "log": None, "why": bad}
        text = render.html(name, run_id=bad, **values)
        assert "<script>" not in text and "&lt;script&gt;" in text, name
    assert "<" not in render.text(bad)
    assert render.address("run", id=bad, x="", y=None) == (
        "run?id=%3Cscript%3Ealert%281%29%3C%2Fscript%3E%22%27%26"
    )


def test_how_values_are_written():
    time = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert render.time(time) == render.time(time.replace(tzinfo=None)) == "2024-01-02 03:04:05"
    assert [render.length(s) for s in (None, 5, 119, 1800, 7200, 2e5)] == [
        *("", "5 s", "119 s", "30 min", "2 h", "2.31 d")
    ]
    assert [render.size(n) for n in (None, 0, 999, 1500, 2e9)] == [
        *("", "0 B", "999 B", "1.5 kB", "2 GB")
    ]
